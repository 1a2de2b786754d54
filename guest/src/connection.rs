//! PostgreSQL connection strings, as libpq takes them: a URI or `keyword=value` pairs.
//!
//! What cannot be obeyed is refused by name, never dropped: a dropped `sslmode` is an open connection. No
//! message repeats a value, since it may be a password.

use crate::error::{Error, Result};

/// The port of a server unless another one is named.
const PORT: u16 = 5432;

/// How to encrypt a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// If the server can.
    Prefer,
    /// Always, whoever the server is.
    Require,
    /// Always, with a certificate of a trusted authority.
    VerifyCa,
    /// Always, with a certificate that also names the host.
    VerifyFull,
}

/// A server and how to reach it: for the host only.
#[derive(Clone, PartialEq, Eq)]
pub struct Connection {
    /// Host names, addresses or socket directories, with ports.
    pub hosts: Vec<(String, u16)>,
    /// The database.
    pub database: String,
    /// The user, if known.
    pub user: Option<String>,
    /// The password, if known.
    pub password: Option<String>,
    /// How to encrypt.
    pub tls_mode: TlsMode,
    /// A file with the certificates to trust.
    pub ca_file: Option<String>,
    /// All other parameters.
    pub parameters: Vec<(String, String)>,
    /// How long to wait for a connection, in milliseconds.
    pub connect_timeout_ms: u32,
    /// Connections kept open.
    pub pool_min_size: u32,
    /// Connections at most.
    pub pool_max_size: u32,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither the password nor the parameters, which may hold another one.
        f.debug_struct("Connection")
            .field("hosts", &self.hosts)
            .field("database", &self.database)
            .field("user", &self.user)
            .field("tls_mode", &self.tls_mode)
            .finish_non_exhaustive()
    }
}

/// The parts of a connection string, as far as it names them.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) hosts: Vec<(String, u16)>,
    pub(crate) database: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) tls_mode: Option<TlsMode>,
    pub(crate) ca_file: Option<String>,
    pub(crate) connect_timeout_ms: Option<u32>,
    pub(crate) parameters: Vec<(String, String)>,
}

/// The parameters that are passed on to the host as they are.
const PASSED: [&str; 10] = [
    "application_name",
    "options",
    "target_session_attrs",
    "channel_binding",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
];

/// Splits a connection string into its parts.
///
/// # Errors
/// `invalid-argument` for what is not one, or asks for what cannot be obeyed.
pub(crate) fn parse(text: &str) -> Result<Parts> {
    let text = text.trim();
    if text.contains('\0') {
        return Err(refused("it holds a NUL character"));
    }
    let pairs = if text.starts_with("postgresql:") || text.starts_with("postgres:") {
        uri(text)?
    } else {
        keywords(text)?
    };
    parts(pairs)
}

fn refused(reason: &str) -> Error {
    Error::InvalidArgument(format!("the PostgreSQL connection string: {reason}"))
}

/// Reads `postgresql://user:password@host:port,host:port/database?key=value`.
fn uri(text: &str) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut add = |key: &str, value: &str| -> Result<()> {
        pairs.push((decode(key)?, decode(value)?));
        Ok(())
    };
    let (_, rest) = text.split_once(':').unwrap_or_default();
    let rest = rest
        .strip_prefix("//")
        .ok_or_else(|| refused("`//` should follow the scheme"))?;
    if rest.contains('#') {
        return Err(refused(
            "`#` has no meaning in it; write %23 for the character",
        ));
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (credentials, servers) = match authority.rsplit_once('@') {
        Some((credentials, servers)) => (Some(credentials), servers),
        None => (None, authority),
    };
    if let Some(credentials) = credentials {
        match credentials.split_once(':') {
            Some((user, password)) => {
                add("user", user)?;
                add("password", password)?;
            }
            None => add("user", credentials)?,
        }
    }
    if !servers.is_empty() {
        let (mut hosts, mut ports) = (Vec::new(), Vec::new());
        for server in servers.split(',') {
            let (host, port) = split_port(server)?;
            hosts.push(host);
            ports.push(port);
        }
        add("host", &hosts.join(","))?;
        add("port", &ports.join(","))?;
    }
    if !database.is_empty() {
        add("dbname", database)?;
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(refused("a parameter has no `=`"));
        };
        add(key, value)?;
    }
    Ok(pairs)
}

fn split_port(server: &str) -> Result<(&str, &str)> {
    if let Some(address) = server.strip_prefix('[') {
        let (address, rest) = address
            .split_once(']')
            .ok_or_else(|| refused("a bracket of an IPv6 address is not closed"))?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address, port)),
            None if rest.is_empty() => Ok((address, "")),
            None => Err(refused("a port follows the address after a colon")),
        };
    }
    Ok(server.split_once(':').unwrap_or((server, "")))
}

/// Decodes `%XX`; a broken escape is refused, since it may be part of a password.
fn decode(text: &str) -> Result<String> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(byte) = bytes.get(index) {
        if *byte != b'%' {
            decoded.push(*byte);
            index += 1;
            continue;
        }
        let digits = bytes.get(index + 1..index + 3);
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let value = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .filter(|value| *value != 0)
            .ok_or_else(|| refused("`%` should be followed by two hexadecimal digits, not 00"))?;
        decoded.push(value);
        index += 3;
    }
    String::from_utf8(decoded).map_err(|_| refused("a percent-encoded part is not UTF-8"))
}

/// Reads `host=localhost dbname='my db'`.
fn keywords(text: &str) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((key, after)) = rest.split_once('=') else {
            return Err(refused(
                "it is neither a postgresql:// address nor pairs of keyword=value",
            ));
        };
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(refused("a keyword is followed by `=`"));
        }
        let (value, after) = keyword_value(after.trim_start())?;
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

fn keyword_value(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let quoted = text.strip_prefix('\'');
    let body = quoted.unwrap_or(text);
    let mut characters = body.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some((_, escaped)) => value.push(escaped),
                None => return Err(refused("it ends in a backslash")),
            },
            '\'' if quoted.is_some() => return Ok((value, &body[at + 1..])),
            other if quoted.is_none() && other.is_whitespace() => {
                return Ok((value, &body[at..]));
            }
            other => value.push(other),
        }
    }
    if quoted.is_some() {
        return Err(refused("a quoted value is never closed"));
    }
    Ok((value, ""))
}

/// Reads the pairs; of equal keys the last one counts, as in libpq.
fn parts(pairs: Vec<(String, String)>) -> Result<Parts> {
    let mut parts = Parts::default();
    let (mut hosts, mut ports, mut root_certificate) = (String::new(), String::new(), None);
    for (key, value) in pairs {
        let some = (!value.is_empty()).then(|| value.clone());
        match key.as_str() {
            "host" => hosts = value,
            "port" => ports = value,
            "dbname" => parts.database = some,
            "user" => parts.user = some,
            "password" => parts.password = some,
            "sslmode" => parts.tls_mode = some.as_deref().map(tls_mode).transpose()?,
            "ssl" if value == "true" => parts.tls_mode = Some(TlsMode::Require),
            "sslrootcert" => root_certificate = some,
            "connect_timeout" => parts.connect_timeout_ms = connect_timeout(&value)?,
            "client_encoding" if value.eq_ignore_ascii_case("utf8") || value == "auto" => {}
            known if PASSED.contains(&known) => {
                parts.parameters.retain(|(other, _)| *other != key);
                parts.parameters.push((key, value));
            }
            other => {
                return Err(refused(&format!(
                    "the parameter {other:?} cannot be obeyed; known are host, port, dbname, user, password, sslmode, sslrootcert, connect_timeout, {}",
                    PASSED.join(", ")
                )));
            }
        }
    }
    parts.hosts = join(&hosts, &ports)?;
    match root_certificate.as_deref() {
        // As libpq: the system's authorities, and then nothing less than the full check.
        Some("system") => {
            if !matches!(parts.tls_mode, None | Some(TlsMode::VerifyFull)) {
                return Err(refused("sslrootcert=system needs sslmode=verify-full"));
            }
            parts.tls_mode = Some(TlsMode::VerifyFull);
        }
        Some(_) => {
            // As libpq: whoever names an authority wants it to be asked.
            if parts.tls_mode == Some(TlsMode::Require) {
                parts.tls_mode = Some(TlsMode::VerifyCa);
            }
            parts.ca_file = root_certificate;
        }
        None => {}
    }
    Ok(parts)
}

/// Pairs hosts with ports: one port counts for all hosts.
fn join(hosts: &str, ports: &str) -> Result<Vec<(String, u16)>> {
    let number = |port: &str| {
        if port.is_empty() {
            return Ok(PORT);
        }
        let number = port.parse().ok().filter(|port| *port != 0);
        number.ok_or_else(|| refused("a port is a number from 1 to 65535"))
    };
    let hosts: Vec<&str> = hosts.split(',').collect();
    let ports: Vec<&str> = ports.split(',').collect();
    if hosts == [""] {
        // The port alone tells that the server is on this machine.
        return match ports.as_slice() {
            [""] => Ok(Vec::new()),
            [port] => Ok(vec![(LOCAL.to_owned(), number(port)?)]),
            _ => Err(refused("there are more ports than hosts")),
        };
    }
    if ports.len() != 1 && ports.len() != hosts.len() {
        return Err(refused("there are not as many ports as hosts"));
    }
    let mut joined = Vec::with_capacity(hosts.len());
    for (index, host) in hosts.iter().enumerate() {
        let port = ports.get(index).or(ports.first()).copied();
        let host = if host.is_empty() { LOCAL } else { host };
        joined.push((host.to_owned(), number(port.unwrap_or_default())?));
    }
    Ok(joined)
}

/// The host, if none is named.
pub(crate) const LOCAL: &str = "localhost";

fn tls_mode(text: &str) -> Result<TlsMode> {
    Ok(match text {
        "disable" => TlsMode::Disable,
        // Whether it begins open or encrypted makes no difference to what is promised.
        "allow" | "prefer" => TlsMode::Prefer,
        "require" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyCa,
        "verify-full" => TlsMode::VerifyFull,
        _ => {
            return Err(refused(
                "sslmode is disable, allow, prefer, require, verify-ca or verify-full",
            ));
        }
    })
}

/// Reads a number of seconds; none or 0 is the configuration's own.
fn connect_timeout(text: &str) -> Result<Option<u32>> {
    if text.is_empty() {
        return Ok(None);
    }
    let seconds: u32 = text
        .parse()
        .map_err(|_| refused("connect_timeout is a number of seconds"))?;
    Ok((seconds > 0).then(|| seconds.saturating_mul(1000)))
}

impl Parts {
    /// Returns the port of the default server.
    pub(crate) const PORT: u16 = PORT;
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
mod tests {
    use super::{Parts, TlsMode, parse};

    fn host(host: &str, port: u16) -> (String, u16) {
        (host.to_owned(), port)
    }

    #[test]
    fn an_address_gives_its_parts_percent_decoded() {
        let parts = parse("postgresql://us%65r:p%40ss%2F@db.example:6543/my%20db?application_name=a%26b&sslmode=verify-full&sslrootcert=/etc/ca.pem").unwrap();
        assert_eq!(parts.hosts, [host("db.example", 6543)]);
        assert_eq!(parts.user.as_deref(), Some("user"));
        assert_eq!(parts.password.as_deref(), Some("p@ss/"));
        assert_eq!(parts.database.as_deref(), Some("my db"));
        assert_eq!(parts.tls_mode, Some(TlsMode::VerifyFull));
        assert_eq!(parts.ca_file.as_deref(), Some("/etc/ca.pem"));
        let expected = [("application_name".to_owned(), "a&b".to_owned())];
        assert_eq!(parts.parameters, expected);
    }

    #[test]
    fn what_is_not_named_stays_open() {
        assert!(parse("postgresql://").unwrap() == Parts::default());
        assert!(parse("").unwrap() == Parts::default());
        let parts = parse("postgres://db.example").unwrap();
        assert_eq!(parts.hosts, [host("db.example", 5432)]);
        assert_eq!(parts.tls_mode, None);
    }

    #[test]
    fn several_hosts_addresses_and_socket_directories_are_understood() {
        let parts = parse("postgresql://a:1,[::1]:2,c/db").unwrap();
        assert_eq!(parts.hosts, [host("a", 1), host("::1", 2), host("c", 5432)]);
        let parts = parse("postgresql:///db?host=/run/pg&port=7").unwrap();
        assert_eq!(parts.hosts, [host("/run/pg", 7)]);
        let parts = parse("postgresql://%2Frun%2Fpg/db").unwrap();
        assert_eq!(parts.hosts, [host("/run/pg", 5432)]);
        let parts = parse("host=a,b port=9").unwrap();
        assert_eq!(parts.hosts, [host("a", 9), host("b", 9)]);
        let parts = parse("port=9").unwrap();
        assert_eq!(parts.hosts, [host("localhost", 9)]);
    }

    #[test]
    fn keywords_are_read_with_their_quotes_and_escapes() {
        let text = r"host = db user='o\'neil' password='a b\\c' dbname=x\ y connect_timeout=3";
        let parts = parse(text).unwrap();
        assert_eq!(parts.hosts, [host("db", 5432)]);
        assert_eq!(parts.user.as_deref(), Some("o'neil"));
        assert_eq!(parts.password.as_deref(), Some(r"a b\c"));
        assert_eq!(parts.database.as_deref(), Some("x y"));
        assert_eq!(parts.connect_timeout_ms, Some(3000));
    }

    #[test]
    fn an_authority_that_is_named_is_asked() {
        let parts = parse("sslmode=require sslrootcert=/ca.pem").unwrap();
        assert_eq!(parts.tls_mode, Some(TlsMode::VerifyCa));
        let parts = parse("sslrootcert=system").unwrap();
        assert_eq!(parts.tls_mode, Some(TlsMode::VerifyFull));
        assert!(parse("sslrootcert=system sslmode=require").is_err());
    }

    #[test]
    fn what_cannot_be_obeyed_is_refused_and_no_message_repeats_a_value() {
        let refused = [
            ("postgresql://u:hunter2@h/db?sslcert=/c", "sslcert"),
            ("postgresql://u:hunter2@h/db?sslmode=hunter2", "sslmode"),
            ("postgresql://u:hunter2@h:hunter2/db", "a port"),
            ("postgresql://u:hunter2%@h/db", "hexadecimal"),
            ("postgresql://u:hunter2%00@h/db", "hexadecimal"),
            ("postgresql://u:hunter2#@h/db", "%23"),
            ("postgresql://u:hunter2@[::1/db", "bracket"),
            ("postgresql:hunter2", "//"),
            ("password='hunter2", "never closed"),
            ("hunter2", "keyword=value"),
            ("password=hunter2 port=1,2 host=a", "as many ports"),
            ("password=hunter2 port=0", "65535"),
            ("password=hunter2 connect_timeout=x", "seconds"),
            ("password=hunter2\\", "backslash"),
            ("password=hunter2 client_encoding=latin1", "client_encoding"),
        ];
        for (text, expected) in refused {
            let message = parse(text).err().unwrap().to_string();
            assert!(message.contains(expected), "{text}: {message}");
            assert!(!message.contains("hunter2"), "{text}: {message}");
        }
    }
}
