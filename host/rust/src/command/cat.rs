//! `metalab-store cat`

use super::{Context, Failure, Outcome};
use metalab_store::Error;
use metalab_store::types::ArtifactReference;
use std::io::Write;

#[derive(clap::Args)]
pub(super) struct Cat {
    /// The run's id
    run: String,
    /// The name of an artifact, or of a result
    name: String,
    /// Compare the artifact with its hash first
    #[arg(long)]
    verify: bool,
}

impl Cat {
    pub(super) fn run(&self, context: &mut Context) -> Outcome {
        let store = context.reader()?;
        let artifact = ArtifactReference::Name((self.run.clone(), self.name.clone()));
        match store.open_artifact(&artifact, self.verify) {
            Ok(mut reader) => {
                std::io::copy(&mut reader, &mut context.out)?;
            }
            Err(Error::NotFound(_)) => match store.get_result_text(&self.run, &self.name)? {
                Some(text) => write!(context.out, "{text}")?,
                None => {
                    return Err(Failure::Other(
                        "not-found",
                        format!(
                            "run {:?} has no artifact and no result {:?}; `metalab-store show {}` lists \
                             those there are",
                            self.run, self.name, self.run
                        ),
                    ));
                }
            },
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
