//! The smallest program that embeds the store.

// [example]
use metalab_store::types::{Expectation, Metric, MetricValue, RunRecord, Status};
use metalab_store::{Error, FileStoreConfig};

fn main() -> Result<(), Error> {
    let store = FileStoreConfig::new("./experiments")
        .scoped("my_exp:1.0")
        .connect()?;
    let mut run = RunRecord::new("0123456789abcdef", Status::Success);
    run.metrics.push(Metric {
        name: "loss".into(),
        value: MetricValue::Float(0.25),
    });
    store.put_run_record(&run, &Expectation::Anything)?;
    println!("{} runs", store.list_run_records(None)?.records.len());
    store.close()
}
// [example]
