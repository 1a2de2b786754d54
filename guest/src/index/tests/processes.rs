//! Several stores on one directory at the same time. Each has its own handles and locks, as in processes of their
//! own.

use super::*;
use std::thread;

#[test]
fn writers_and_readers_at_the_same_time_agree_in_the_end_and_readers_see_what_was_put_before_they_asked()
 {
    const RUNS: usize = 120;
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    open_as(root, Some("e"), Access::ReadWrite);
    thread::scope(|threads| {
        for writer in 0..3 {
            threads.spawn(move || {
                let store = open_as(root, Some("e"), Access::ReadWrite);
                for run in 0..RUNS {
                    put(&store, &format!("w{writer}-{run:03}"), &run.to_string());
                    if run % 7 == 0 {
                        let query = QueryText {
                            filter: "run_id like \"w%\"",
                            sort: "run_id",
                            columns: "run_id",
                            ..QueryText::default()
                        };
                        let answered = answer(store.query_runs(&query).unwrap());
                        let own = format!("\"w{writer}-");
                        let own = answered.lines.iter().filter(|line| line.contains(&own));
                        assert_eq!(own.count(), run + 1);
                        assert_eq!(answered.damaged, []);
                    }
                }
            });
        }
    });
    let store = open_as(root, Some("e"), Access::ReadWrite);
    assert_eq!(all(&store).lines.len(), 3 * RUNS);
    let reader = open_as(root, Some("e"), Access::ReadOnly);
    assert_eq!(all(&reader).lines.len(), 3 * RUNS);
}
