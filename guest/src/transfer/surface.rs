//! The `transfer` interface of the component's surface: maps its types and resources, and nothing else.

use crate::component::exports::metalab::store::{store, transfer as wit};
use crate::component::{Answer, Component, Convert as _, logic_of};
use crate::error::Error;
use crate::transfer as logic;
use std::cell::RefCell;

/// The resource that hands a stream out.
pub struct Sender(RefCell<logic::Sender>);

/// The resource that takes a stream; none once it is finished.
pub struct Receiver(RefCell<Option<logic::Receiver>>);

/// The resource that compresses.
pub struct Packer(RefCell<logic::Packer>);

/// The resource that decompresses.
pub struct Unpacker(RefCell<logic::Unpacker>);

impl wit::Guest for Component {
    type Sender = Sender;
    type Receiver = Receiver;
    type Packer = Packer;
    type Unpacker = Unpacker;

    fn send(from: store::StoreBorrow<'_>, what: wit::Selection) -> Answer<wit::Sender> {
        let sender = logic_of(&from).send(logic::Selection {
            experiments: what.experiments,
            filter: what.filter,
            artifacts: what.artifacts,
            derived: what.derived,
            results: what.results,
            logs: what.logs,
        })?;
        Ok(wit::Sender::new(Sender(RefCell::new(sender))))
    }

    fn receive(
        into: store::StoreBorrow<'_>,
        options: wit::ReceiveOptions,
        handover: Option<Vec<u8>>,
    ) -> Answer<wit::Receiver> {
        let options = logic::ReceiveOptions {
            existing: match options.existing {
                wit::Existing::Fail => logic::Existing::Fail,
                wit::Existing::Skip => logic::Existing::Skip,
                wit::Existing::Overwrite => logic::Existing::Overwrite,
            },
            dry_run: options.dry_run,
            rewrite_uris: options.rewrite_uris,
            redirect: options.redirect,
        };
        let receiver = logic_of(&into).receive(options, handover.as_deref())?;
        Ok(wit::Receiver::new(Receiver(RefCell::new(Some(receiver)))))
    }
}

fn digests(digests: &[logic::ExperimentDigest]) -> Vec<wit::ExperimentDigest> {
    let digest = |digest: &logic::ExperimentDigest| wit::ExperimentDigest {
        experiment_id: digest.experiment_id.clone(),
        runs: digest.runs,
        digest: digest.digest.clone(),
    };
    digests.iter().map(digest).collect()
}

fn counts(counts: logic::Counts) -> wit::Counts {
    wit::Counts {
        runs: counts.runs,
        files: counts.files,
        bytes: counts.bytes,
    }
}

fn report(report: logic::Report) -> wit::Report {
    let failure = |failure: logic::Failure| wit::Failure {
        experiment_id: failure.experiment_id,
        run_id: failure.run_id,
        file: failure.file,
        reason: failure.reason,
    };
    wit::Report {
        copied: counts(report.copied),
        skipped: counts(report.skipped),
        failed: counts(report.failed),
        removed: report.removed,
        digests: digests(&report.digests),
        failures: report.failures.into_iter().map(failure).collect(),
    }
}

impl wit::GuestSender for Sender {
    fn next_chunk(&self) -> Answer<Vec<u8>> {
        Ok(self.0.borrow_mut().next_chunk()?)
    }

    fn progress(&self) -> wit::Progress {
        let progress = self.0.borrow().progress();
        wit::Progress {
            runs: progress.runs,
            total: progress.total,
            bytes: progress.bytes,
        }
    }

    fn report(&self) -> wit::Report {
        report(self.0.borrow().report().clone())
    }

    fn damaged(&self) -> Vec<wit::Damage> {
        self.0.borrow().damaged().to_vec().convert()
    }
}

fn finished() -> Error {
    Error::InvalidArgument("the stream was taken to its end; begin another one".into())
}

impl wit::GuestReceiver for Receiver {
    fn write(&self, chunk: Vec<u8>) -> Answer<wit::Step> {
        let mut receiver = self.0.borrow_mut();
        let receiver = receiver.as_mut().ok_or_else(finished)?;
        let step = receiver.write(&chunk)?;
        Ok(wit::Step {
            consumed: step.consumed as u64,
            elsewhere: step.elsewhere.map(|elsewhere| wit::Elsewhere {
                experiment_id: elsewhere.experiment_id,
                handover: elsewhere.handover,
            }),
        })
    }

    fn refuse(&self, reason: String) {
        if let Some(receiver) = self.0.borrow_mut().as_mut() {
            receiver.refuse(&reason);
        }
    }

    fn finish(&self) -> Answer<wit::Report> {
        let receiver = self.0.borrow_mut().take().ok_or_else(finished)?;
        Ok(report(receiver.finish()?))
    }
}

impl wit::GuestPacker for Packer {
    fn new() -> Self {
        Self(RefCell::default())
    }

    fn write(&self, chunk: Vec<u8>) -> Vec<u8> {
        self.0.borrow_mut().write(&chunk)
    }

    fn finish(&self) -> Vec<u8> {
        self.0.borrow_mut().finish()
    }
}

impl wit::GuestUnpacker for Unpacker {
    fn new(limit: Option<u64>) -> Self {
        Self(RefCell::new(logic::Unpacker::new(limit)))
    }

    fn write(&self, chunk: Vec<u8>) -> Answer<()> {
        Ok(self.0.borrow_mut().write(&chunk)?)
    }

    fn read(&self, all: bool) -> Answer<Vec<u8>> {
        let mut unpacker = self.0.borrow_mut();
        Ok(if all {
            unpacker.read_rest()?
        } else {
            unpacker.read()?
        })
    }
}
