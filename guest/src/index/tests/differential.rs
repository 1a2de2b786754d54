use super::*;
use crate::query::parse_filter;

/// Makes a store of random records, some of them damaged, some with derived metrics.
fn random_store(directory: &Path, random: &mut Random, count: usize) {
    for top in ["runs", "derived"] {
        fs::create_dir_all(directory.join(top)).unwrap();
    }
    for run in 0..count {
        let text = match random.below(200) {
            0 => "{".to_owned(),
            1 => "{\"status\": \"odd\"}".to_owned(),
            _ => testing::record_text(random, run),
        };
        fs::write(directory.join(format!("runs/run{run}.json")), text).unwrap();
        if random.below(3) == 0 {
            let derived = match random.below(60) {
                0 => "[]".to_owned(),
                _ => testing::open_object(random),
            };
            fs::write(directory.join(format!("derived/run{run}.json")), derived).unwrap();
        }
    }
}

fn columns(random: &mut Random) -> String {
    if random.below(2) == 0 {
        return String::new();
    }
    let mut columns: Vec<String> = (0..1 + random.below(3))
        .map(|_| testing::field(random).to_string())
        .collect();
    if random.below(4) == 0 {
        columns.push(
            random
                .pick(&["metrics", "params", "derived", "provenance"])
                .to_owned(),
        );
    }
    columns.join(", ")
}

#[test]
fn random_queries_have_the_rows_order_totals_cursors_and_damage_of_a_scan() {
    const STORES: usize = 25;
    const RECORDS: usize = 80;
    const QUERIES: usize = 82;
    let mut random = Random::new(42);
    let mut matched = 0;
    for number in 0..STORES {
        let directory = tempfile::tempdir().unwrap();
        random_store(directory.path(), &mut random, RECORDS);
        let access = [Access::ReadOnly, Access::ReadWrite][number % 2];
        let store = open_as(directory.path(), None, access);
        matched += ask_at_random(&store, &mut random, QUERIES);
    }
    assert!(matched > 10_000, "{matched}");
}

/// Asks random queries, and the next pages of those that have one; returns how many rows they matched.
fn ask_at_random(store: &Store, random: &mut Random, count: usize) -> u64 {
    let mut matched = 0;
    for _ in 0..count {
        let filter = testing::expr(random, 2).to_string();
        let filter = match parse_filter(&filter) {
            Ok(_) if random.below(5) > 0 => filter,
            _ => String::new(),
        };
        let sort = testing::sort(random).to_string();
        let columns = columns(random);
        let limit = match random.below(3) {
            0 => None,
            _ => Some(u32::try_from(random.below(70)).unwrap()),
        };
        let mut query = QueryText {
            filter: &filter,
            sort: &sort,
            columns: &columns,
            limit,
            ..QueryText::default()
        };
        let first = ask(store, &query);
        matched += first.total;
        let cursor = first.cursor;
        if cursor.is_some() {
            query.cursor = cursor.as_deref();
            let second = ask(store, &query);
            // With the same cursor both have the same time, and so the same next one.
            let scanned = store.scan_runs(&query).unwrap();
            assert_eq!(second.cursor, scanned.cursor(), "{query:?}");
        }
    }
    matched
}

#[test]
fn the_fields_are_those_of_a_scan() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random::new(43);
    random_store(directory.path(), &mut random, 100);
    let store = open_as(directory.path(), None, Access::ReadOnly);
    for _ in 0..30 {
        let filter = testing::expr(&mut random, 1).to_string();
        let (indexed, scanned) = (
            store.list_fields(&filter).unwrap(),
            store.scan_fields(&filter).unwrap(),
        );
        assert_eq!(indexed.fields, scanned.fields, "{filter}");
        assert_eq!(
            (indexed.runs, indexed.complete, indexed.damaged),
            (scanned.runs, scanned.complete, scanned.damaged)
        );
    }
}

#[test]
fn typed_records_and_those_of_one_experiment_are_those_of_a_scan() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random::new(44);
    random_store(directory.path(), &mut random, 200);
    let store = open_as(directory.path(), None, Access::ReadOnly);
    let typed = |mut list: RunListing| {
        let mut records = Vec::new();
        loop {
            let page = list.next(7).unwrap();
            if page.is_empty() {
                return (format!("{records:?}"), list.damaged());
            }
            records.extend(page);
        }
    };
    let query = QueryText::default();
    assert_eq!(
        typed(store.query_runs(&query).unwrap()),
        typed(store.scan_runs(&query).unwrap())
    );
    for experiment in ["e", "f", ""] {
        let lines = answer(store.list_run_records(Some(experiment)).unwrap()).lines;
        let all = answer(store.scan_runs(&query).unwrap()).lines;
        let named = |line: &String| {
            let value = crate::json::parse(line.as_bytes()).unwrap();
            let object = value.as_object().unwrap();
            let found = object
                .get("experiment_id")
                .and_then(crate::json::Value::as_str);
            found.unwrap_or_default() == experiment
        };
        let wanted: Vec<String> = all.into_iter().filter(named).collect();
        assert_eq!(lines, wanted);
    }
}
