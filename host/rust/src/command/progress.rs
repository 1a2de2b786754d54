//! How far long work is: a bar on a terminal, nothing in a pipe.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on standard error. It goes away when this is dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Makes the bar; none is drawn where standard error is no terminal, or a program reads the output.
    pub(super) fn new(quiet: bool) -> Self {
        let target = match quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) = ProgressStyle::with_template(
            "{msg:.bold} [{wide_bar}] {human_pos}/{human_len} {per_sec}, {eta} left",
        ) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }

    /// Shows how far it is.
    pub(super) fn show(&self, what: &str, done: u64, total: u64) {
        if self.0.message() != what {
            self.0.set_message(super::text::safe(what));
            self.0.reset_eta();
        }
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
