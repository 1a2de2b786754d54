//! What `SECURITY.md` says is held by the tests that it names: each of them is there, and no sentence goes without one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store_tests::checkout;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The parts in which each sentence names what holds it.
const HELD: [&str; 2] = ["## Who may be hostile", "## What is claimed"];

/// Sentences in them that claim nothing: they say how to read the part.
const NO_CLAIM: [&str; 4] = [
    "Each sentence ends with the tests",
    "is counted in",
    "A way around one of these is a weakness",
    "So is a host that panics",
];

fn document() -> String {
    fs::read_to_string(checkout().join("SECURITY.md")).unwrap()
}

/// Returns a part of the document, without its heading.
fn part(document: &str, heading: &str) -> String {
    let (_, rest) = document.split_once(&format!("{heading}\n")).unwrap();
    let end = rest.find("\n## ").unwrap_or(rest.len());
    rest[..end].to_owned()
}

/// Returns what stands between two backticks.
fn quoted(text: &str) -> Vec<String> {
    let pieces = text.split('`').skip(1).step_by(2);
    pieces.map(|piece| piece.replace('\n', " ")).collect()
}

/// A test that is named: its file, and its function or none for all of the file.
type Named = (PathBuf, Option<String>);

/// Returns the file of a name: a path, or one of the files below `tests/tests`.
fn file_of(name: &str) -> PathBuf {
    let name = match Path::new(name).extension() {
        Some(_) => name.to_owned(),
        None => format!("tests/tests/{name}.rs"),
    };
    checkout().join(name)
}

/// Collects the tests that a text names. `…::test` is in the file that was named before.
fn named(text: &str) -> Vec<Named> {
    let mut found: Vec<Named> = Vec::new();
    // How tests are named, and no test.
    let quoted = quoted(text).into_iter().filter(|word| word != "file::test");
    for quoted in quoted {
        // A type's field is no test.
        if quoted.starts_with(char::is_uppercase) {
            continue;
        }
        if let Some((file, test)) = quoted.rsplit_once("::") {
            let file = match file {
                "…" => found.last().map(|(file, _)| file.clone()).unwrap(),
                file => file_of(file),
            };
            found.push((file, Some(test.to_owned())));
        } else if is_file(&quoted) {
            found.push((file_of(&quoted), None));
        }
    }
    found
}

/// Says whether a quoted word is the name of a file with tests.
fn is_file(word: &str) -> bool {
    let is_code = [".rs", ".py", ".mjs"]
        .iter()
        .any(|ending| word.ends_with(ending));
    file_of(word).is_file() && (is_code || !word.contains(['/', '.']))
}

/// Returns the names of the tests in a file.
fn tests_of(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file)
        .unwrap_or_else(|error| panic!("SECURITY.md names {}: {error}", file.display()));
    let mut tests = BTreeSet::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        let name = |rest: &str| rest.split('(').next().unwrap_or_default().to_owned();
        if line == "#[test]" || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| marked) {
            tests.insert(name(rest));
            marked = false;
        } else if let Some(rest) = line.strip_prefix("def test_") {
            tests.insert(format!("test_{}", name(rest)));
        } else if let Some(rest) = line.strip_prefix("test('") {
            // A name in the Node host's tests is a sentence.
            tests.insert(
                rest.split('\'')
                    .next()
                    .unwrap_or_default()
                    .replace(' ', "_"),
            );
        }
    }
    tests
}

/// Takes a part apart into its sentences. A point within quotes, or without a space behind it, ends none.
fn sentences(part: &str) -> Vec<String> {
    let mut sentences = Vec::new();
    for block in part.split("\n\n").flat_map(|block| block.split("\n- ")) {
        let text: Vec<char> = block.trim().trim_start_matches("- ").chars().collect();
        let (mut begun, mut within) = (0, false);
        for (at, character) in text.iter().enumerate() {
            within ^= *character == '`';
            let ends = *character == '.' && !within;
            if ends
                && text
                    .get(at + 1)
                    .is_none_or(|next| next.is_whitespace() || *next == '*')
            {
                sentences.push(text[begun..=at].iter().collect());
                begun = at + 1;
            }
        }
        sentences.push(text[begun..].iter().collect());
    }
    sentences.retain(|sentence: &String| sentence.chars().any(char::is_alphabetic));
    sentences
}

#[test]
fn every_test_that_the_document_names_is_there() {
    let mut counted = 0;
    for (file, test) in named(&document()) {
        let tests = tests_of(&file);
        match test {
            Some(test) => assert!(tests.contains(&test), "{} has no {test}", file.display()),
            None => assert!(!tests.is_empty(), "{} has no test", file.display()),
        }
        counted += 1;
    }
    assert!(counted > 30, "{counted} tests are named");
}

#[test]
fn every_fuzz_target_that_the_document_names_is_there() {
    let targets: String = ["files.rs", "rows.rs", "texts.rs"]
        .iter()
        .map(|file| fs::read_to_string(checkout().join("guest/tests/fuzz").join(file)).unwrap())
        .collect();
    let document = document().replace('\n', " ");
    let mut counted = 0;
    for after in document.split("fuzz target").skip(1) {
        let end = after.find([')', '.', ';']).unwrap_or(after.len());
        for name in quoted(&after[..end]) {
            assert!(
                targets.contains(&format!("\"{name}\"")),
                "no fuzz target {name}"
            );
            counted += 1;
        }
    }
    assert!(counted > 3, "{counted} targets are named");
}

#[test]
fn no_sentence_about_what_is_held_goes_without_a_test() {
    let document = document();
    let mut without = Vec::new();
    for heading in HELD {
        for sentence in sentences(&part(&document, heading)) {
            let sentence = sentence.replace('\n', " ");
            let is_held = !named(&sentence.replace('…', "audit")).is_empty()
                || sentence.contains("fuzz target");
            let is_title = sentence.starts_with("**") && sentence.len() < 80;
            if !is_held && !is_title && !NO_CLAIM.iter().any(|part| sentence.contains(part)) {
                without.push(sentence);
            }
        }
    }
    assert_eq!(without, Vec::<String>::new());
}
