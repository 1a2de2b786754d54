//! The smallest program that embeds the store.

// [example]
use metalab_store::FileStoreConfig;
use metalab_store::types::{Expectation, RunRecord, Status};

fn main() -> metalab_store::Result<()> {
    let config = FileStoreConfig::new("./experiments").scoped("my_exp:1.0");
    let store = config.connect()?;
    let run = RunRecord::new("0123456789abcdef", Status::Success);
    store.put_run_record(&run, &Expectation::Anything)?;
    println!("{} runs", store.list_run_records(None)?.records.len());
    store.close()
}
// [example]
