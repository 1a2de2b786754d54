//! Programs that embed the store: threads, Tokio runtimes, readers and writers, closing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::types::{ArtifactDescriptor, ArtifactReference, Expectation, RunRecord, Status};
use metalab_store::{FileStoreConfig, Store};
use std::io::{Read, Seek, SeekFrom, Write};

fn open(directory: &tempfile::TempDir) -> Store {
    FileStoreConfig::new(directory.path())
        .scoped("exp:1")
        .connect()
        .unwrap()
}

fn use_it(store: &Store, run: &str) {
    store
        .put_run_record(
            &RunRecord::new(run, Status::Success),
            &Expectation::Anything,
        )
        .unwrap();
    assert_eq!(
        store.get_run_record(run).unwrap().unwrap().experiment_id,
        "exp:1"
    );
    store.append_log(run, "run", "one\r\n", false).unwrap();
    assert_eq!(store.append_log(run, "run", "two\n", true).unwrap(), 9);
    assert_eq!(store.get_log(run, "run").unwrap().unwrap(), "one\r\ntwo\n");
}

#[tokio::test(flavor = "current_thread")]
async fn the_store_works_inside_a_runtime_of_one_thread() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    use_it(&store, "run");
    let mut list = store.list_runs(None).unwrap();
    assert_eq!(list.next(10).unwrap().len(), 1);
    drop(list);
    store.close().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_works_inside_a_runtime_of_many_threads() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move { use_it(&store, &format!("run{task}")) })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.list_run_records(None).unwrap().records.len(), 8);
}

#[test]
fn threads_share_a_store_and_lose_no_write() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for index in 0..10 {
                    let run = RunRecord::new(format!("run-{thread}-{index}"), Status::Success);
                    store.put_run_record(&run, &Expectation::Absent).unwrap();
                }
            });
        }
    });
    assert_eq!(store.list_run_records(None).unwrap().records.len(), 40);
}

#[test]
fn lists_and_readers_that_are_open_do_not_keep_other_calls_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    use_it(&store, "run");
    let descriptor = ArtifactDescriptor::new("run", "x", "blob", "bin");
    store.put_artifact(b"content", &descriptor).unwrap();
    let artifact = ArtifactReference::Name(("run".to_owned(), "x".to_owned()));
    let mut lists: Vec<_> = (0..20).map(|_| store.list_runs(None).unwrap()).collect();
    let mut readers: Vec<_> = (0..20)
        .map(|_| store.open_artifact(&artifact, true).unwrap())
        .collect();
    use_it(&store, "other");
    assert!(
        lists
            .iter_mut()
            .all(|list| list.next(5).unwrap().len() == 1)
    );
    for reader in &mut readers {
        let mut content = String::new();
        reader.read_to_string(&mut content).unwrap();
        assert_eq!(content, "content");
    }
}

#[test]
fn artifacts_of_every_size_come_back_from_bytes_writers_and_files() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let source = tempfile::NamedTempFile::new().unwrap();
    for size in [0, 1, 65_536, 262_144, 262_145, 1_000_000] {
        let content: Vec<u8> = (0..size)
            .map(|index| u8::try_from(index * 7 % 251).unwrap())
            .collect();
        std::fs::write(source.path(), &content).unwrap();
        let stored = [
            store
                .put_artifact(
                    &content,
                    &ArtifactDescriptor::new("run", format!("bytes{size}"), "blob", "bin"),
                )
                .unwrap(),
            store
                .put_artifact_file(
                    source.path(),
                    &ArtifactDescriptor::new("run", format!("file{size}"), "blob", "bin"),
                )
                .unwrap(),
            {
                let mut writer = store
                    .create_artifact(&ArtifactDescriptor::new(
                        "run",
                        format!("writer{size}"),
                        "blob",
                        "bin",
                    ))
                    .unwrap();
                writer.write_all(&content).unwrap();
                writer.finish().unwrap()
            },
        ];
        for descriptor in &stored {
            assert_eq!(descriptor.size_bytes, Some(size));
            assert_eq!(descriptor.content_hash, stored[0].content_hash);
            let artifact = ArtifactReference::Uri(descriptor.uri.clone());
            assert_eq!(store.get_artifact(&artifact).unwrap(), content);
            let mut reader = store.open_artifact(&artifact, true).unwrap();
            reader.seek(SeekFrom::Start(size / 2)).unwrap();
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, content[usize::try_from(size / 2).unwrap()..]);
        }
    }
    let names: Vec<String> = store
        .list_artifacts("run")
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert_eq!(names.len(), 18);
}

#[test]
fn a_writer_that_is_dropped_and_an_import_that_fails_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let mut writer = store
        .create_artifact(&ArtifactDescriptor::new("run", "x", "blob", "bin"))
        .unwrap();
    writer.write_all(b"half").unwrap();
    drop(writer);
    let source = tempfile::NamedTempFile::new().unwrap();
    let mut wrong = ArtifactDescriptor::new("run", "x", "blob", "bin");
    wrong.size_bytes = Some(99);
    store.put_artifact_file(source.path(), &wrong).unwrap_err();
    let left: Vec<String> = metalab_store_tests::tree(directory.path())
        .into_keys()
        .filter(|name| {
            !name.ends_with('/') && (name.contains("artifacts/") || name.contains("staging"))
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_artifact_that_differs_by_extension_alone_replaces_the_old_file_with_its_entry() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store
        .put_artifact(
            b"old",
            &ArtifactDescriptor::new("run", "model", "blob", "bin"),
        )
        .unwrap();
    store
        .put_artifact(
            b"other",
            &ArtifactDescriptor::new("run", "other", "blob", "bin"),
        )
        .unwrap();
    store
        .put_artifact(
            b"new",
            &ArtifactDescriptor::new("run", "model", "json", "json"),
        )
        .unwrap();
    let files = directory.path().join("exp_1/artifacts/run");
    assert!(!files.join("model.bin").exists());
    assert_eq!(std::fs::read(files.join("model.json")).unwrap(), b"new");
    let names: Vec<String> = store
        .list_artifacts("run")
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert_eq!(names, ["other", "model"]);
}

#[test]
fn two_artifacts_whose_names_and_formats_make_one_file_are_a_conflict() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store
        .put_artifact(
            b"first",
            &ArtifactDescriptor::new("run", "a", "blob", "tar.gz"),
        )
        .unwrap();
    let second = ArtifactDescriptor::new("run", "a.tar", "blob", "gz");
    let error = store.put_artifact(b"second", &second).unwrap_err();
    assert_eq!(error.code(), "conflict");
    assert!(error.to_string().contains("a.tar.gz"), "{error}");
    let artifact = ArtifactReference::Name(("run".to_owned(), "a".to_owned()));
    assert_eq!(store.get_artifact(&artifact).unwrap(), b"first");
}

#[test]
fn an_experiment_cannot_take_the_place_of_a_directory_of_the_store() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["runs", "artifacts", "services"] {
        let error = FileStoreConfig::new(directory.path())
            .scoped(name)
            .connect()
            .err()
            .unwrap();
        assert_eq!(error.code(), "invalid-name", "{error}");
    }
    assert!(metalab_store_tests::tree(directory.path()).is_empty());
}

#[test]
fn deleting_a_run_takes_everything_of_it_and_nothing_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    for run in ["run", "run_2"] {
        use_it(&store, run);
        store.put_log(run, "std_out", "nested").unwrap();
        store.put_derived_text(run, "{\"a\": 1}").unwrap();
        store
            .put_result(
                run,
                "x",
                &metalab_store::types::StructuredResult::new("[1]"),
            )
            .unwrap();
        store
            .put_artifact(b"a", &ArtifactDescriptor::new(run, "a", "blob", "bin"))
            .unwrap();
        std::fs::write(
            directory.path().join(format!("exp_1/runs/{run}.done")),
            "{}",
        )
        .unwrap();
    }
    assert!(store.delete_run("run").unwrap());
    assert!(!store.delete_run("run").unwrap());
    let left: Vec<String> = metalab_store_tests::tree(directory.path())
        .into_keys()
        .filter(|name| name.contains("run"))
        .collect();
    let of_the_other = left.iter().filter(|name| name.contains("run_2")).count();
    let locks_and_directories = left
        .iter()
        .filter(|name| name.ends_with("/run.lock") || name.ends_with("/runs/"))
        .count();
    assert_eq!(left.len(), of_the_other + locks_and_directories, "{left:?}");
    assert_eq!(store.list_logs("run_2").unwrap(), ["run", "std_out"]);
    assert_eq!(store.list_artifacts("run_2").unwrap().len(), 1);
}

#[test]
fn after_closing_every_call_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    use_it(&store, "run");
    store.close().unwrap();
    store.close().unwrap();
    assert_eq!(store.get_run_record("run").unwrap_err().code(), "closed");
    assert_eq!(
        open(&directory)
            .list_run_records(None)
            .unwrap()
            .records
            .len(),
        1
    );
}

#[test]
fn opening_for_writing_makes_the_reference_s_layout_and_opening_a_collection_makes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    drop(FileStoreConfig::new(directory.path()).connect().unwrap());
    assert!(metalab_store_tests::tree(directory.path()).is_empty());
    drop(open(&directory));
    let made = metalab_store_tests::tree(directory.path());
    for name in [
        "runs",
        "derived",
        "artifacts",
        "logs",
        "results",
        "experiments",
        ".locks",
    ] {
        assert!(made.contains_key(&format!("exp_1/{name}/")), "{name}");
    }
    let meta = "{\n  \"created_by\": \"metalab\",\n  \"experiment_id\": \"exp:1\",\n  \"schema_version\": \"0.1\"\n}";
    assert_eq!(made["exp_1/_meta.json"], meta.as_bytes());
}

#[test]
fn a_call_that_needs_too_much_memory_ends_and_the_store_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let limits = metalab_store::Limits {
        memory_bytes: 16 << 20,
        ..metalab_store::Limits::default()
    };
    let store = FileStoreConfig::new(directory.path())
        .scoped("exp:1")
        .limits(limits)
        .connect()
        .unwrap();
    let mut large = RunRecord::new("large", Status::Success);
    large.notes = Some("x".repeat(12 << 20));
    let error = store
        .put_run_record(&large, &Expectation::Anything)
        .unwrap_err();
    assert_eq!(error.code(), "limit-exceeded", "{error}");
    use_it(&store, "run");
}

#[test]
fn the_example_that_embeds_the_store_runs_and_runs_again() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let ran = std::process::Command::new(metalab_store_tests::program("embed"))
            .current_dir(directory.path())
            .output()
            .unwrap();
        assert!(ran.status.success());
        assert_eq!(String::from_utf8(ran.stdout).unwrap(), "1 runs\n");
    }
}
