//! A proxy in front of a server: it counts how often a client speaks, and hangs up on everybody while it is told to.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A proxy. It goes on until the test's process ends.
pub struct Proxy {
    uri: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    flights: AtomicUsize,
    away: AtomicBool,
    /// Those that are open, or were.
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Puts itself before the server of an address.
    ///
    /// # Panics
    /// If that has no host and port, or there is no room for a listener.
    #[must_use]
    pub fn before(uri: &str) -> Self {
        let (_, after) = uri.split_once("://").unwrap();
        let (authority, _) = after.split_once('/').unwrap();
        let server = authority.rsplit('@').next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().to_string();
        let uri = uri.replacen(&server, &own, 1);
        let separator = if uri.contains('?') { '&' } else { '?' };
        let shared: Arc<Shared> = Arc::default();
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let mut streams = accepting.streams.lock().unwrap();
                // Under the lock: who sends it away closes all that were let in before.
                if accepting.away.load(Ordering::SeqCst) {
                    continue;
                }
                // A server that is gone is one that hangs up.
                if let Ok(server) = TcpStream::connect(&server) {
                    streams.push(client.try_clone().unwrap());
                    connect(client, server, &accepting);
                }
            }
        });
        Self {
            uri: format!("{uri}{separator}sslmode=disable"),
            shared,
        }
    }

    /// Returns the address of the server's database through this proxy.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Returns how often clients spoke, each time after the server had: so often they waited for it.
    #[must_use]
    pub fn flights(&self) -> usize {
        self.shared.flights.load(Ordering::SeqCst)
    }

    /// Hangs up on everybody, and on everybody who comes; or is there again.
    ///
    /// # Panics
    /// If a thread of the proxy did.
    pub fn stay_away(&self, away: bool) {
        let mut streams = self.shared.streams.lock().unwrap();
        self.shared.away.store(away, Ordering::SeqCst);
        if away {
            for stream in streams.drain(..) {
                // It may be closed already.
                stream.shutdown(Shutdown::Both).ok();
            }
        }
    }
}

/// Passes on what two ends say to each other, until one of them hangs up.
fn connect(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) {
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let speaking = Arc::new(AtomicBool::new(false));
    let (heard, counted) = (Arc::clone(&speaking), Arc::clone(shared));
    let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        pass_on(from, to, || {
            if !heard.swap(true, Ordering::SeqCst) {
                counted.flights.fetch_add(1, Ordering::SeqCst);
            }
        });
    });
    thread::spawn(move || pass_on(server, client, || speaking.store(false, Ordering::SeqCst)));
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, heard: impl Fn()) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                heard();
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    for end in [from, to] {
        // The other direction may have closed it.
        end.shutdown(Shutdown::Both).ok();
    }
}
