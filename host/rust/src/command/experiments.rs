//! `metalab-store experiments`

use super::{Context, Outcome, text};
use std::io::Write;

pub(super) fn run(context: &mut Context) -> Outcome {
    let list = context.config.list_experiments()?;
    if context.json {
        return context.print_json(&serde_json::json!(list));
    }
    context.warn_of_damage(&list.damaged);
    if list.experiments.is_empty() {
        writeln!(context.out, "No experiments found")?;
    } else {
        writeln!(context.out, "Experiments:")?;
        for id in &list.experiments {
            writeln!(context.out, "  {}", text::cell(id))?;
        }
    }
    Ok(())
}
