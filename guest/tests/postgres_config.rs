//! Configurations of PostgreSQL stores: what a locator says is kept, what cannot be obeyed is refused, and
//! credentials are only found for the server that the user named.

#![expect(clippy::unwrap_used, reason = "a test may stop where it fails")]

use metalab_store_guest::config::{
    Backend, PostgresConfig, Resolution, StoreConfig, from_locator, list_experiments, resolve,
    scoped,
};
use metalab_store_guest::connection::TlsMode;
use metalab_store_guest::native;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn postgres(config: &StoreConfig) -> &PostgresConfig {
    match &config.backend {
        Backend::Postgres(postgres) => postgres,
        Backend::File => panic!("a file store"),
    }
}

/// A collection in which a service says where it is.
fn collection(service: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("services/postgres");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("service.json"), service).unwrap();
    root
}

fn resolved(locator: &str, root: &Path) -> Resolution {
    let separator = if locator.contains('?') { '&' } else { '?' };
    let locator = format!("{locator}{separator}file_root={}", root.display());
    let ports = native::ports(root).unwrap();
    resolve(&from_locator(&locator).unwrap(), Some(&ports)).unwrap()
}

const SERVICE: &str = r#"{"host": "db.example", "port": 6543, "database": "metalab", "user": "lab",
    "password": "p@ss/word", "pid": 1, "connection_string": "postgresql://evil.example/x"}"#;

#[test]
fn a_locator_keeps_every_parameter_and_only_takes_out_the_stores_own() {
    let config = from_locator(
        "postgresql://u:p%40w@db:6543/lab?sslmode=verify-full&file_root=/data/x&schema=My%20Schema&application_name=runner&experiment_id=a:1&pool_max_size=5&projection=false&auto_migrate=false",
    )
    .unwrap();
    let backend = postgres(&config);
    assert_eq!(
        backend.connection_string,
        "postgresql://u:p%40w@db:6543/lab?sslmode=verify-full&application_name=runner"
    );
    assert_eq!(backend.schema, "My Schema");
    assert_eq!((backend.pool_min_size, backend.pool_max_size), (1, 5));
    assert!(!backend.projection && !backend.auto_migrate);
    assert_eq!(config.root, "/data/x");
    assert_eq!(config.experiment_id.as_deref(), Some("a:1"));

    let resolution = resolve(&config, None).unwrap();
    assert_eq!(resolution.subdirectory.as_deref(), Some("a_1"));
    let connection = resolution.connection.unwrap();
    assert_eq!(connection.hosts, [("db".to_owned(), 6543)]);
    assert_eq!(connection.tls_mode, TlsMode::VerifyFull);
    assert_eq!(connection.password.as_deref(), Some("p@w"));
    assert_eq!(
        connection.parameters,
        [("application_name".to_owned(), "runner".to_owned())]
    );
    let index = resolution.options.index.unwrap();
    assert_eq!(
        (index.schema.as_str(), index.projection),
        ("My Schema", false)
    );
}

#[test]
fn a_configuration_without_parameters_has_the_references_defaults() {
    let config = from_locator("postgres://localhost/metalab?file_root=/data").unwrap();
    let backend = postgres(&config);
    assert_eq!(backend.schema, "public");
    assert_eq!(backend.connect_timeout_ms, 10_000);
    assert_eq!((backend.pool_min_size, backend.pool_max_size), (1, 2));
    assert!(backend.auto_migrate && backend.projection);
    let connection = resolve(&config, None).unwrap().connection.unwrap();
    assert_eq!(connection.tls_mode, TlsMode::Prefer);
    assert_eq!(connection.hosts, [("localhost".to_owned(), 5432)]);
}

#[test]
fn what_cannot_be_obeyed_is_refused_without_repeating_a_password() {
    for (locator, expected) in [
        ("postgresql://u:hunter2@db/lab", "file_root"),
        (
            "postgresql://u:hunter2@db/lab?file_root=/x&sslcert=/y",
            "sslcert",
        ),
        (
            "postgresql://u:hunter2@db/lab?file_root=/x&auto_migrate=hunter2",
            "auto_migrate",
        ),
        (
            "postgresql://u:hunter2@db/lab?file_root=/x&pool_max_size=hunter2",
            "pool_max_size",
        ),
        ("postgresql://u:hunter2@db:99999/lab?file_root=/x", "port"),
    ] {
        let message = from_locator(locator).err().unwrap().to_string();
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
    let config = from_locator("postgresql://db/lab?file_root=/x&pool_min_size=3").unwrap();
    let message = resolve(&config, None).unwrap_err().to_string();
    assert!(message.contains("at least 3"), "{message}");
}

#[test]
fn experiments_are_listed_from_files_and_only_without_a_scope() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("a_1")).unwrap();
    fs::write(
        root.path().join("a_1/_meta.json"),
        r#"{"experiment_id": "a:1"}"#,
    )
    .unwrap();
    let locator = format!(
        "postgresql://nowhere.invalid/x?file_root={}",
        root.path().display()
    );
    let config = from_locator(&locator).unwrap();
    let ports = native::ports(root.path()).unwrap();
    let found = list_experiments(&config, Some(ports.clone())).unwrap();
    assert_eq!(found.experiments, ["a:1"]);
    let config = scoped(config, "a:1").unwrap();
    assert!(list_experiments(&config, Some(ports)).is_err());
    assert!(scoped(config, "b:1").is_err());
}

#[test]
fn credentials_are_found_for_the_server_that_the_locator_names_or_if_it_names_none() {
    let root = collection(SERVICE);
    for locator in [
        "postgresql://",
        "postgresql://db.example:6543",
        "postgresql://DB.example:6543/metalab",
        "postgresql://lab@db.example:6543/metalab",
    ] {
        let resolution = resolved(locator, root.path());
        assert!(resolution.warnings.is_empty(), "{locator}");
        let connection = resolution.connection.unwrap();
        assert_eq!(connection.hosts, [("db.example".to_owned(), 6543)]);
        assert_eq!(connection.database, "metalab");
        assert_eq!(connection.user.as_deref(), Some("lab"));
        assert_eq!(
            connection.password.as_deref(),
            Some("p@ss/word"),
            "{locator}"
        );
        // The text that the file holds for it is not used: the reference makes it without escapes.
        assert!(!format!("{connection:?}").contains("p@ss"));
    }
    // The other parameters of the locator stay.
    let connection = resolved("postgresql://?sslmode=require", root.path())
        .connection
        .unwrap();
    assert_eq!(connection.tls_mode, TlsMode::Require);
}

#[test]
fn a_file_about_another_server_database_or_user_is_ignored_with_a_warning() {
    let root = collection(SERVICE);
    for (locator, expected) in [
        ("postgresql://other.example:6543/metalab", "another server"),
        ("postgresql://db.example:1/metalab", "another server"),
        ("postgresql://db.example/metalab", "another server"),
        (
            "postgresql://db.example:6543,second.example:6543/metalab",
            "another server",
        ),
        ("postgresql://db.example:6543/other", "another database"),
        (
            "postgresql://someone@db.example:6543/metalab",
            "another user",
        ),
    ] {
        let resolution = resolved(locator, root.path());
        assert_eq!(resolution.connection.unwrap().password, None, "{locator}");
        assert_eq!(resolution.warnings.len(), 1, "{locator}");
        let warning = &resolution.warnings[0];
        assert!(
            warning.contains(expected) && warning.contains("service.json"),
            "{warning}"
        );
        assert!(!warning.contains("p@ss"), "{warning}");
    }
}

/// `hostaddr` says where the connection goes. Without a host the file named one, and its password went to that address.
#[test]
fn a_locator_with_an_address_of_its_own_gets_no_password_of_the_file() {
    let root = collection(SERVICE);
    for locator in [
        "postgresql://?hostaddr=192.0.2.1",
        "postgresql://lab@/metalab?hostaddr=192.0.2.1",
    ] {
        let resolution = resolved(locator, root.path());
        assert_eq!(resolution.connection.unwrap().password, None, "{locator}");
        assert!(resolution.warnings[0].contains("hostaddr"), "{locator}");
    }
}

#[test]
fn a_password_that_the_user_passed_is_never_replaced() {
    let root = collection(SERVICE);
    let resolution = resolved("postgresql://lab:own@db.example:6543/metalab", root.path());
    assert_eq!(
        resolution.connection.unwrap().password.as_deref(),
        Some("own")
    );
    assert!(resolution.warnings.is_empty());
}

#[test]
fn a_damaged_or_hostile_file_is_ignored_with_a_warning_that_repeats_nothing() {
    let long = format!(r#"{{"host": "{}"}}"#, "a".repeat(100_000));
    for (service, expected) in [
        ("", "not a JSON object"),
        ("[]", "not a JSON object"),
        (r#"{"host": "hunter2"}"#, "no `database`"),
        (
            r#"{"host": 5, "database": "hunter2", "user": "x", "port": 1}"#,
            "`host`",
        ),
        (
            r#"{"host": "h", "database": "hunter2", "user": "x", "port": 70000}"#,
            "`port`",
        ),
        (
            r#"{"host": "h\u0000", "database": "hunter2", "user": "x", "port": 1}"#,
            "`host`",
        ),
        (
            r#"{"host": "h", "database": "d", "user": "u", "port": 1, "password": ["hunter2"]}"#,
            "`password`",
        ),
        (long.as_str(), "bytes"),
    ] {
        let root = collection(service);
        let resolution = resolved("postgresql://", root.path());
        assert_eq!(resolution.warnings.len(), 1, "{service}");
        let warning = &resolution.warnings[0];
        assert!(warning.contains(expected), "{warning}");
        assert!(!warning.contains("hunter2"), "{warning}");
        let connection = resolution.connection.unwrap();
        assert_eq!(connection.hosts, [("localhost".to_owned(), 5432)]);
        assert_eq!(connection.password, None);
    }
}

#[test]
fn a_link_in_the_place_of_the_file_is_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret.json"), SERVICE).unwrap();
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("services/postgres")).unwrap();
    let link = root.path().join("services/postgres/service.json");
    std::os::unix::fs::symlink(outside.path().join("secret.json"), link).unwrap();
    let resolution = resolved("postgresql://", root.path());
    assert_eq!(resolution.warnings.len(), 1);
    assert_eq!(resolution.connection.unwrap().password, None);
}
