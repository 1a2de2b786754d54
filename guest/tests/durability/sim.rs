//! A disk in memory that implements all ports of the storage logic.
//!
//! It keeps apart what was written and what was synced. `File::sync_data` makes the content of one file
//! durable, `Directory::sync` the names in one directory, `Roots::sync` everything. Then:
//!
//! * a **kill** keeps everything that was written, and releases the locks;
//! * a **power cut** keeps what was synced. Of the rest, anything may be there or not: each change of a
//!   name (creating, renaming, removing) by itself; and of each file's writes all, none, the first ones,
//!   or any of its sectors, with zeros where the size grew and the data did not follow. So a name may be
//!   durable and its content not. A directory whose own name was never synced goes with everything in it.
//!   A rename is one piece: the file is found by its old name or by its new one, so the directory it goes
//!   to is durable with it. What POSIX file systems keep in order beyond that is not relied on.
//!   A sector of 512 bytes is written whole or not at all.

use metalab_store_guest::ports::{
    Clock, Directory, Entry, File, Identity, Kind, Listing, Lock, LockError, LockMode, LockTarget,
    NoDatabases, OpenMode, PortError, PortResult, Ports, Random, Roots, Stat,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

type Number = u64;

/// The files of a store and their contents.
pub type Tree = BTreeMap<String, Rc<Vec<u8>>>;

const ROOT: Number = 1;
const SECTOR: usize = 512;

/// A sequence of numbers that a seed determines.
#[derive(Clone)]
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below a limit that is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit as u64)).unwrap()
    }

    /// Says yes in so many of 100 cases.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone)]
enum Write {
    At(usize, Vec<u8>),
    Size(usize),
}

impl Write {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::At(offset, data) => {
                let end = offset + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(data);
            }
            Self::Size(size) => content.resize(*size, 0),
        }
    }
}

#[derive(Clone, Default)]
struct FileNode {
    content: Rc<Vec<u8>>,
    synced: Rc<Vec<u8>>,
    /// What was written since the last sync.
    pending: Vec<Write>,
    modified: u64,
}

impl FileNode {
    fn write(&mut self, write: Write, time: u64) {
        write.apply(Rc::make_mut(&mut self.content));
        self.pending.push(write);
        self.modified = time;
    }

    fn sync(&mut self) {
        self.synced = Rc::clone(&self.content);
        self.pending.clear();
    }

    /// Returns what may be left of the content after a power cut.
    fn after_power_cut(&self, kept: Kept, numbers: &mut Numbers) -> Rc<Vec<u8>> {
        let kept = match kept {
            Kept::Any => match numbers.below(6) {
                0 => Kept::All,
                1 => Kept::None,
                2 => Kept::Zeros,
                3 => Kept::First,
                4 => Kept::Short,
                _ => Kept::Sectors,
            },
            kept => kept,
        };
        let (old, new) = (&self.synced, &self.content);
        match kept {
            Kept::All | Kept::Any => Rc::clone(new),
            Kept::None => Rc::clone(old),
            // The size is there, the data is not.
            Kept::Zeros => {
                let mut content = old.to_vec();
                content.resize(new.len(), 0);
                Rc::new(content)
            }
            Kept::First => {
                let mut content = old.to_vec();
                let whole = numbers.below(self.pending.len());
                for write in &self.pending[..whole] {
                    write.apply(&mut content);
                }
                if let Write::At(offset, data) = &self.pending[whole] {
                    let mut cut = numbers.below(data.len() + 1);
                    if offset + cut < content.len() {
                        // What is overwritten is so in whole sectors.
                        let from = offset % SECTOR;
                        cut = ((from + cut) / SECTOR * SECTOR).saturating_sub(from);
                    }
                    Write::At(*offset, data[..cut].to_vec()).apply(&mut content);
                }
                Rc::new(content)
            }
            // Everything up to somewhere.
            Kept::Short => {
                let from = old.len().min(new.len());
                let size = from + numbers.below(new.len() - from + 1);
                Rc::new(new[..size].to_vec())
            }
            Kept::Sectors => {
                let mut content = old.to_vec();
                content.resize(new.len(), 0);
                for start in (0..new.len()).step_by(SECTOR) {
                    let end = (start + SECTOR).min(new.len());
                    if numbers.percent(50) {
                        content[start..end].copy_from_slice(&new[start..end]);
                    }
                }
                Rc::new(content)
            }
        }
    }
}

#[derive(Clone, Default)]
struct DirectoryNode {
    names: BTreeMap<String, Number>,
    synced: BTreeMap<String, Number>,
    modified: u64,
}

#[derive(Clone)]
enum Node {
    File(FileNode),
    Directory(DirectoryNode),
}

/// A change of names that is not durable yet: what each of them is after it.
type NameChange = Rc<Vec<(Number, String, Option<Number>)>>;

/// What a power cut keeps of the unsynced writes of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    All,
    None,
    Zeros,
    First,
    Short,
    Sectors,
    Any,
}

/// The state of a disk: a value that is cheap to copy.
#[derive(Clone)]
pub struct Disk {
    nodes: BTreeMap<Number, Rc<Node>>,
    /// The changes of names since they were synced, in their order.
    unsynced: Vec<NameChange>,
    next: Number,
    machine: String,
    boot: u64,
    inode: u64,
    time: u64,
}

impl Disk {
    fn new() -> Self {
        let root = Node::Directory(DirectoryNode::default());
        Self {
            nodes: BTreeMap::from([(ROOT, Rc::new(root))]),
            unsynced: Vec::new(),
            next: ROOT + 1,
            machine: "machine".into(),
            boot: 1,
            inode: 77,
            time: 1_700_000_000_000_000_000,
        }
    }

    fn directory(&self, number: Number) -> PortResult<&DirectoryNode> {
        match self.nodes.get(&number).map(Rc::as_ref) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_)) => Err(PortError::NotDirectory),
            None => Err(PortError::NotFound),
        }
    }

    fn file(&self, number: Number) -> PortResult<&FileNode> {
        match self.nodes.get(&number).map(Rc::as_ref) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory(_)) => Err(PortError::IsDirectory),
            None => Err(PortError::NotFound),
        }
    }

    fn file_mut(&mut self, number: Number) -> PortResult<&mut FileNode> {
        match self.nodes.get_mut(&number).map(Rc::make_mut) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory(_)) => Err(PortError::IsDirectory),
            None => Err(PortError::NotFound),
        }
    }

    fn find(&self, from: Number, path: &str) -> PortResult<Number> {
        let mut number = from;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let directory = self.directory(number)?;
            number = *directory.names.get(name).ok_or(PortError::NotFound)?;
        }
        Ok(number)
    }

    /// Returns the directory that a path is in, and its last name.
    fn parent<'p>(&self, from: Number, path: &'p str) -> PortResult<(Number, &'p str)> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let directory = self.find(from, directory)?;
        self.directory(directory)?;
        Ok((directory, name))
    }

    /// Returns how many names a file has.
    fn links(&self, number: Number) -> u64 {
        let names = |node: &Rc<Node>| match node.as_ref() {
            Node::Directory(directory) => directory
                .names
                .values()
                .filter(|named| **named == number)
                .count(),
            Node::File(_) => 0,
        };
        self.nodes.values().map(names).sum::<usize>() as u64
    }

    fn add(&mut self, node: Node) -> Number {
        let number = self.next;
        self.next += 1;
        self.nodes.insert(number, Rc::new(node));
        number
    }

    /// Changes names, all in one piece.
    fn change(&mut self, slots: Vec<(Number, String, Option<Number>)>) {
        self.time += 1;
        let time = self.time;
        for (directory, name, number) in &slots {
            if let Some(Node::Directory(node)) = self.nodes.get_mut(directory).map(Rc::make_mut) {
                set(&mut node.names, name, *number);
                node.modified = time;
            }
        }
        self.unsynced.push(Rc::new(slots));
    }

    /// Makes changes of names durable, with those before them that concern the same names.
    fn settle(&mut self, wanted: impl Fn(&NameChange) -> bool) {
        let mut chosen: Vec<bool> = self.unsynced.iter().map(wanted).collect();
        self.with_what_they_need(&mut chosen, true);
        let unsynced = std::mem::take(&mut self.unsynced);
        for (change, chosen) in unsynced.into_iter().zip(chosen) {
            if !chosen {
                self.unsynced.push(change);
                continue;
            }
            for (directory, name, number) in change.iter() {
                let node = self.nodes.get_mut(directory).map(Rc::make_mut);
                if let Some(Node::Directory(node)) = node {
                    set(&mut node.synced, name, *number);
                }
            }
        }
    }

    /// Chooses with each rename the changes that made the directory it goes to; and, if names are to be
    /// in order, with each change those before it that concern the same names.
    fn with_what_they_need(&self, chosen: &mut [bool], in_order: bool) {
        let mut directories = BTreeSet::new();
        let mut names = BTreeSet::new();
        for (change, chosen) in self.unsynced.iter().zip(chosen).rev() {
            let made = change
                .iter()
                .any(|(.., number)| number.is_some_and(|number| directories.contains(&number)));
            let same = change
                .iter()
                .any(|(directory, name, _)| names.contains(&(*directory, name)));
            *chosen |= made || in_order && same;
            if !*chosen {
                continue;
            }
            names.extend(change.iter().map(|(directory, name, _)| (*directory, name)));
            if made || change.len() > 1 {
                let into = change.iter().filter(|(.., number)| number.is_some());
                directories.extend(into.map(|(directory, ..)| *directory));
            }
        }
    }

    fn sync_all(&mut self) {
        self.settle(|_| true);
        for node in self.nodes.values_mut() {
            if matches!(node.as_ref(), Node::File(file) if !file.pending.is_empty())
                && let Node::File(file) = Rc::make_mut(node)
            {
                file.sync();
            }
        }
    }

    /// Returns the files and their contents as a program sees them.
    pub fn tree(&self) -> Tree {
        let mut tree = BTreeMap::new();
        self.collect(ROOT, "", &mut tree);
        tree
    }

    fn collect(&self, directory: Number, prefix: &str, tree: &mut Tree) {
        let Ok(node) = self.directory(directory) else {
            return;
        };
        for (name, number) in &node.names {
            match self.nodes[number].as_ref() {
                Node::File(file) => {
                    tree.insert(format!("{prefix}{name}"), Rc::clone(&file.content));
                }
                Node::Directory(_) => self.collect(*number, &format!("{prefix}{name}/"), tree),
            }
        }
    }

    /// Returns states that a power cut may leave: all distinct ones where they are few, else samples; the
    /// extremes always.
    pub fn after_power_cuts(&self, most: usize, seed: u64) -> Vec<Self> {
        let mut numbers = Numbers::new(seed);
        let mut seen = HashSet::new();
        let mut states = Vec::new();
        let names = self.unsynced.len();
        let all = |_: usize| true;
        let none = |_: usize| false;
        let mut add = |state: (Self, u64)| {
            if seen.insert(state.1) {
                states.push(state.0);
            }
            states.len()
        };
        add(self.power_cut(all, Kept::All, &mut numbers));
        add(self.power_cut(none, Kept::None, &mut numbers));
        add(self.power_cut(all, Kept::None, &mut numbers));
        add(self.power_cut(all, Kept::Zeros, &mut numbers));
        add(self.power_cut(none, Kept::All, &mut numbers));
        add(self.power_cut(all, Kept::Short, &mut numbers));
        if names < 6 && 1 << names <= most {
            for chosen in 0..1_usize << names {
                for kept in [Kept::All, Kept::None] {
                    add(self.power_cut(|index| chosen >> index & 1 == 1, kept, &mut numbers));
                }
            }
        }
        for _ in 0..2 * most {
            // Few are lost, few are kept, all but the last, half of them.
            let share = [10, 50, 90, 100][numbers.below(4)];
            let last = names.saturating_sub(numbers.below(4));
            let mut choice = Numbers::new(numbers.next());
            let chosen: Vec<bool> = (0..names)
                .map(|index| choice.percent(share) && (share < 100 || index < last))
                .collect();
            let kept = [Kept::Any, Kept::Any, Kept::All][numbers.below(3)];
            if add(self.power_cut(|index| chosen[index], kept, &mut numbers)) >= most {
                break;
            }
        }
        states
    }

    /// Returns one state after a power cut, and a number that tells it from others.
    fn power_cut(
        &self,
        chosen: impl Fn(usize) -> bool,
        kept: Kept,
        numbers: &mut Numbers,
    ) -> (Self, u64) {
        let mut names: BTreeMap<Number, BTreeMap<String, Number>> = BTreeMap::new();
        for (number, node) in &self.nodes {
            if let Node::Directory(directory) = node.as_ref() {
                names.insert(*number, directory.synced.clone());
            }
        }
        let mut kept_names: Vec<bool> = (0..self.unsynced.len()).map(chosen).collect();
        self.with_what_they_need(&mut kept_names, false);
        for (change, kept) in self.unsynced.iter().zip(kept_names) {
            if kept {
                for (directory, name, number) in change.iter() {
                    if let Some(directory) = names.get_mut(directory) {
                        set(directory, name, *number);
                    }
                }
            }
        }
        let mut after = Self {
            nodes: BTreeMap::new(),
            unsynced: Vec::new(),
            boot: self.boot + 1,
            machine: self.machine.clone(),
            ..*self
        };
        let mut hasher = DefaultHasher::new();
        let mut left = vec![ROOT];
        while let Some(number) = left.pop() {
            let node = match self.nodes[&number].as_ref() {
                Node::File(file) if file.pending.is_empty() => {
                    number.hash(&mut hasher);
                    Rc::clone(&self.nodes[&number])
                }
                Node::File(file) => {
                    let content = file.after_power_cut(kept, numbers);
                    (number, &content).hash(&mut hasher);
                    Rc::new(Node::File(FileNode {
                        synced: Rc::clone(&content),
                        content,
                        pending: Vec::new(),
                        modified: file.modified,
                    }))
                }
                Node::Directory(directory) => {
                    let names = &names[&number];
                    (number, names).hash(&mut hasher);
                    left.extend(names.values());
                    Rc::new(Node::Directory(DirectoryNode {
                        names: names.clone(),
                        synced: names.clone(),
                        modified: directory.modified,
                    }))
                }
            };
            after.nodes.insert(number, node);
        }
        (after, hasher.finish())
    }
}

fn set(names: &mut BTreeMap<String, Number>, name: &str, number: Option<Number>) {
    match number {
        Some(number) => names.insert(name.to_owned(), number),
        None => names.remove(name),
    };
}

/// What goes wrong at a port call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call of this number and all after it of its process fail: the process is gone.
    Crash(u64),
    /// The call fails and does nothing.
    Fail(u64, PortError),
    /// The call does what it should, and fails.
    FailAfterEffect(u64, PortError),
    /// The call writes the first half, and fails; another call just fails.
    ShortWrite(u64),
}

/// What a port call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    Look,
    Write,
    Sync,
    Change,
}

struct State {
    disk: Disk,
    /// Who holds a lock on a file: the number of the lock, and of the process.
    locks: BTreeMap<Number, Vec<(u64, u64, LockMode)>>,
    holders: u64,
    /// The processes that are gone.
    dead: BTreeSet<u64>,
    processes: u64,
    calls: u64,
    kinds: Vec<CallKind>,
    fault: Option<Fault>,
    /// The state after each call that changed it, if they are kept.
    images: Option<Vec<Disk>>,
    changes: u64,
    numbers: Numbers,
    working_locks: bool,
    read_only: bool,
}

/// A simulated disk, and the processes that use it.
#[derive(Clone)]
pub struct SimDisk(Rc<RefCell<State>>);

impl SimDisk {
    /// Makes an empty disk.
    pub fn new(seed: u64) -> Self {
        Self::of(Disk::new(), seed)
    }

    /// Makes a disk in a state.
    pub fn of(disk: Disk, seed: u64) -> Self {
        Self(Rc::new(RefCell::new(State {
            disk,
            locks: BTreeMap::new(),
            holders: 0,
            dead: BTreeSet::new(),
            processes: 0,
            calls: 0,
            kinds: Vec::new(),
            fault: None,
            images: None,
            changes: 0,
            numbers: Numbers::new(seed),
            working_locks: true,
            read_only: false,
        })))
    }

    /// Returns the ports of a new process.
    pub fn process(&self) -> Ports {
        let process = {
            let mut state = self.0.borrow_mut();
            state.processes += 1;
            state.processes
        };
        let of = Process {
            state: Rc::clone(&self.0),
            number: process,
        };
        Ports {
            directory: Rc::new(SimDirectory(of.clone(), ROOT)),
            roots: Rc::new(of.clone()),
            clock: Rc::new(of.clone()),
            random: Rc::new(of),
            databases: Rc::new(NoDatabases),
        }
    }

    /// Kills all processes.
    pub fn kill_all(&self) {
        let mut state = self.0.borrow_mut();
        state.dead = (1..=state.processes).collect();
        state.locks.clear();
    }

    /// Returns the state of the disk.
    pub fn image(&self) -> Disk {
        self.0.borrow().disk.clone()
    }

    /// Keeps the state after each call that changes it from now on.
    pub fn keep_images(&self) {
        self.0.borrow_mut().images = Some(Vec::new());
    }

    /// Takes the states kept so far.
    pub fn take_images(&self) -> Vec<Disk> {
        let mut state = self.0.borrow_mut();
        state
            .images
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Returns how many calls were made.
    pub fn calls(&self) -> u64 {
        self.0.borrow().calls
    }

    /// Returns what each call did.
    pub fn kinds(&self) -> Vec<CallKind> {
        self.0.borrow().kinds.clone()
    }

    /// Returns how many calls changed something.
    pub fn changes(&self) -> u64 {
        self.0.borrow().changes
    }

    /// Lets something go wrong.
    pub fn plan(&self, fault: Option<Fault>) {
        self.0.borrow_mut().fault = fault;
    }

    pub fn tree(&self) -> Tree {
        self.0.borrow().disk.tree()
    }

    pub fn read(&self, path: &str) -> Option<Rc<Vec<u8>>> {
        let state = self.0.borrow();
        let number = state.disk.find(ROOT, path).ok()?;
        let file = state.disk.file(number).ok()?;
        Some(Rc::clone(&file.content))
    }

    /// Lets another program put a file in place of another, unsynced; directories above are made.
    pub fn foreign_write(&self, path: &str, content: &[u8]) {
        let mut state = self.0.borrow_mut();
        let disk = &mut state.disk;
        if let Some((parent, _)) = path.rsplit_once('/') {
            make_directories(disk, parent);
        }
        let (directory, name) = disk.parent(ROOT, path).unwrap();
        let mut file = FileNode::default();
        file.write(Write::At(0, content.to_vec()), disk.time);
        let number = disk.add(Node::File(file));
        disk.change(vec![(directory, name.to_owned(), Some(number))]);
    }

    /// Lets another program make a directory.
    pub fn foreign_directory(&self, path: &str) {
        make_directories(&mut self.0.borrow_mut().disk, path);
    }

    /// Lets another program remove a file or a directory with everything in it.
    pub fn foreign_remove(&self, path: &str) {
        let disk = &mut self.0.borrow_mut().disk;
        let number = disk.find(ROOT, path).unwrap();
        let mut inside = Tree::new();
        disk.collect(number, "", &mut inside);
        for path in inside.keys() {
            let (directory, name) = disk.parent(number, path).unwrap();
            let name = name.to_owned();
            disk.change(vec![(directory, name, None)]);
        }
        let (directory, name) = disk.parent(ROOT, path).unwrap();
        disk.change(vec![(directory, name.to_owned(), None)]);
    }

    /// Makes everything durable.
    pub fn sync(&self) {
        self.0.borrow_mut().disk.sync_all();
    }

    pub fn set_machine(&self, machine: &str) {
        self.0.borrow_mut().disk.machine = machine.to_owned();
    }

    /// Starts the machine again, in good order.
    pub fn reboot(&self) {
        self.kill_all();
        self.0.borrow_mut().disk.boot += 1;
    }

    /// Gives the granted directory another number, as a copy of it has.
    pub fn set_inode(&self, inode: u64) {
        self.0.borrow_mut().disk.inode = inode;
    }

    pub fn set_locks(&self, working: bool) {
        self.0.borrow_mut().working_locks = working;
    }

    pub fn set_read_only(&self, read_only: bool) {
        self.0.borrow_mut().read_only = read_only;
    }

    /// Moves the clock, in nanoseconds.
    pub fn advance(&self, nanoseconds: i64) {
        let disk = &mut self.0.borrow_mut().disk;
        disk.time = disk.time.wrapping_add_signed(nanoseconds);
    }
}

fn make_directories(disk: &mut Disk, path: &str) {
    let mut directory = ROOT;
    for name in path.split('/') {
        directory = match disk.find(directory, name) {
            Ok(number) => number,
            Err(_) => {
                let number = disk.add(Node::Directory(DirectoryNode::default()));
                disk.change(vec![(directory, name.to_owned(), Some(number))]);
                number
            }
        };
    }
}

/// A process on the disk.
#[derive(Clone)]
struct Process {
    state: Rc<RefCell<State>>,
    number: u64,
}

impl Process {
    /// Makes a call, or lets it fail as planned.
    fn call<T>(
        &self,
        kind: CallKind,
        call: impl FnOnce(&mut Disk) -> PortResult<T>,
    ) -> PortResult<T> {
        self.call_or(kind, call, |_| Ok(()))
    }

    /// Makes a call, or lets it fail as planned, maybe after it did half of its work.
    fn call_or<T>(
        &self,
        kind: CallKind,
        call: impl FnOnce(&mut Disk) -> PortResult<T>,
        half: impl FnOnce(&mut Disk) -> PortResult<()>,
    ) -> PortResult<T> {
        let state = &mut *self.state.borrow_mut();
        if state.dead.contains(&self.number) {
            return Err(PortError::Device);
        }
        let number = state.calls;
        state.calls += 1;
        state.kinds.push(kind);
        let changes = matches!(kind, CallKind::Write | CallKind::Change);
        if changes && state.read_only {
            return Err(PortError::ReadOnly);
        }
        let (result, happened) = match state.fault {
            Some(Fault::Crash(at)) if at == number => {
                state.dead.insert(self.number);
                for holders in state.locks.values_mut() {
                    holders.retain(|(_, process, _)| *process != self.number);
                }
                (Err(PortError::Device), false)
            }
            Some(Fault::Fail(at, reason)) if at == number => (Err(reason), false),
            Some(Fault::FailAfterEffect(at, reason)) if at == number => {
                (call(&mut state.disk).and(Err(reason)), true)
            }
            Some(Fault::ShortWrite(at)) if at == number => {
                (half(&mut state.disk).and(Err(PortError::NoSpace)), true)
            }
            _ => {
                let result = call(&mut state.disk);
                let happened = result.is_ok();
                (result, happened)
            }
        };
        if happened && kind != CallKind::Look {
            state.changes += u64::from(changes);
            if let Some(images) = &mut state.images {
                images.push(state.disk.clone());
            }
        }
        result
    }
}

struct SimDirectory(Process, Number);

impl Directory for SimDirectory {
    fn stat(&self, path: &str) -> PortResult<Stat> {
        self.0.call(CallKind::Look, |disk| {
            let number = disk.find(self.1, path)?;
            Ok(stat(&disk.nodes[&number]))
        })
    }

    fn list(&self, path: &str) -> PortResult<Listing> {
        self.0.call(CallKind::Look, |disk| {
            let directory = disk.directory(disk.find(self.1, path)?)?;
            let entry = |(name, number): (&String, &Number)| Entry {
                name: name.clone(),
                kind: stat(&disk.nodes[number]).kind,
            };
            Ok(Listing {
                entries: directory.names.iter().map(entry).collect(),
                illegal_names: 0,
            })
        })
    }

    fn open_directory(&self, path: &str) -> PortResult<Rc<dyn Directory>> {
        let number = self.0.call(CallKind::Look, |disk| {
            let number = disk.find(self.1, path)?;
            disk.directory(number).map(|_| number)
        })?;
        Ok(Rc::new(Self(self.0.clone(), number)))
    }

    fn create_directory(&self, path: &str) -> PortResult<()> {
        self.0.call(CallKind::Change, |disk| {
            let (directory, name) = disk.parent(self.1, path)?;
            if disk.directory(directory)?.names.contains_key(name) {
                return Err(PortError::AlreadyExists);
            }
            let number = disk.add(Node::Directory(DirectoryNode::default()));
            disk.change(vec![(directory, name.to_owned(), Some(number))]);
            Ok(())
        })
    }

    fn open(&self, path: &str, mode: OpenMode) -> PortResult<Box<dyn File>> {
        let kind = match mode {
            OpenMode::Read | OpenMode::Update => CallKind::Look,
            OpenMode::CreateNew | OpenMode::Append => CallKind::Change,
        };
        let number = self.0.call(kind, |disk| {
            let (directory, name) = disk.parent(self.1, path)?;
            let found = disk.directory(directory)?.names.get(name).copied();
            match (found, mode) {
                (Some(_), OpenMode::CreateNew) => Err(PortError::AlreadyExists),
                (Some(number), _) => disk.file(number).map(|_| number),
                (None, OpenMode::Read | OpenMode::Update) => Err(PortError::NotFound),
                (None, OpenMode::CreateNew | OpenMode::Append) => {
                    let number = disk.add(Node::File(FileNode::default()));
                    disk.change(vec![(directory, name.to_owned(), Some(number))]);
                    Ok(number)
                }
            }
        })?;
        Ok(Box::new(SimFile(self.0.clone(), number)))
    }

    fn rename(&self, from: &str, to: &str) -> PortResult<()> {
        self.0.call(CallKind::Change, |disk| {
            let (old_directory, old) = disk.parent(self.1, from)?;
            let number = disk.find(self.1, from)?;
            let (directory, name) = disk.parent(self.1, to)?;
            if let Some(there) = disk.directory(directory)?.names.get(name)
                && disk.directory(*there).is_ok()
            {
                return Err(PortError::IsDirectory);
            }
            disk.change(vec![
                (old_directory, old.to_owned(), None),
                (directory, name.to_owned(), Some(number)),
            ]);
            Ok(())
        })
    }

    fn remove_file(&self, path: &str) -> PortResult<()> {
        self.0.call(CallKind::Change, |disk| {
            let (directory, name) = disk.parent(self.1, path)?;
            let number = disk.find(self.1, path)?;
            disk.file(number)?;
            disk.change(vec![(directory, name.to_owned(), None)]);
            Ok(())
        })
    }

    fn remove_directory(&self, path: &str) -> PortResult<()> {
        self.0.call(CallKind::Change, |disk| {
            let (directory, name) = disk.parent(self.1, path)?;
            let number = disk.find(self.1, path)?;
            if !disk.directory(number)?.names.is_empty() {
                return Err(PortError::NotEmpty);
            }
            disk.change(vec![(directory, name.to_owned(), None)]);
            Ok(())
        })
    }

    fn sync(&self) -> PortResult<()> {
        self.0.call(CallKind::Sync, |disk| {
            disk.settle(|change| change.iter().any(|(directory, ..)| *directory == self.1));
            Ok(())
        })
    }
}

fn stat(node: &Node) -> Stat {
    let (kind, size, modified) = match node {
        Node::File(file) => (Kind::File, file.content.len(), file.modified),
        Node::Directory(directory) => (Kind::Directory, 0, directory.modified),
    };
    Stat {
        kind,
        size: size as u64,
        links: 1,
        modified,
        changed: modified,
    }
}

struct SimFile(Process, Number);

impl SimFile {
    fn write_at(&self, offset: impl Fn(&FileNode) -> usize, content: &[u8]) -> PortResult<()> {
        let write = |content: &[u8]| {
            let content = content.to_vec();
            let offset = &offset;
            move |disk: &mut Disk| {
                disk.time += 1;
                let time = disk.time;
                let file = disk.file_mut(self.1)?;
                let at = offset(file);
                file.write(Write::At(at, content), time);
                Ok(())
            }
        };
        let half = write(&content[..content.len() / 2]);
        self.0.call_or(CallKind::Write, write(content), half)
    }
}

impl File for SimFile {
    fn read(&self, offset: u64, length: usize) -> PortResult<Vec<u8>> {
        self.0.call(CallKind::Look, |disk| {
            let content = &disk.file(self.1)?.content;
            let from = usize::try_from(offset).unwrap().min(content.len());
            let to = from
                .saturating_add(length.min(64 * 1024))
                .min(content.len());
            Ok(content[from..to].to_vec())
        })
    }

    fn write(&self, offset: u64, content: &[u8]) -> PortResult<()> {
        let offset = usize::try_from(offset).unwrap();
        self.write_at(|_| offset, content)
    }

    fn append(&self, content: &[u8]) -> PortResult<()> {
        self.write_at(|file| file.content.len(), content)
    }

    fn set_size(&self, size: u64) -> PortResult<()> {
        self.0.call(CallKind::Write, |disk| {
            disk.time += 1;
            let time = disk.time;
            let size = usize::try_from(size).unwrap();
            disk.file_mut(self.1)?.write(Write::Size(size), time);
            Ok(())
        })
    }

    fn stat(&self) -> PortResult<Stat> {
        self.0.call(CallKind::Look, |disk| {
            disk.file(self.1)?;
            Ok(Stat {
                links: disk.links(self.1),
                ..stat(&disk.nodes[&self.1])
            })
        })
    }

    fn sync_data(&self) -> PortResult<()> {
        self.0.call(CallKind::Sync, |disk| {
            disk.file_mut(self.1)?.sync();
            Ok(())
        })
    }
}

struct SimLock {
    process: Process,
    file: Number,
    holder: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.process.state.borrow_mut();
        if let Some(holders) = state.locks.get_mut(&self.file) {
            holders.retain(|(holder, ..)| *holder != self.holder);
        }
    }
}

fn lock_failed(reason: PortError) -> LockError {
    match reason {
        PortError::ReadOnly => LockError::ReadOnly,
        PortError::NotFound => LockError::NoDirectory,
        PortError::IsDirectory => LockError::Refused("it is a directory".into()),
        reason => LockError::Io(reason.to_string()),
    }
}

impl Lock for SimLock {
    fn content(&self) -> Result<Vec<u8>, LockError> {
        let read = self.process.call(CallKind::Look, |disk| {
            Ok(disk.file(self.file)?.content.to_vec())
        });
        read.map_err(lock_failed)
    }

    fn set_content(&self, content: &[u8]) -> Result<(), LockError> {
        let content = content.to_vec();
        let set = self.process.call(CallKind::Write, |disk| {
            let time = disk.time;
            let file = disk.file_mut(self.file)?;
            let size = content.len();
            file.write(Write::At(0, content), time);
            if file.content.len() != size {
                file.write(Write::Size(size), time);
            }
            Ok(())
        });
        set.map_err(lock_failed)
    }
}

impl Roots for Process {
    fn acquire(
        &self,
        target: LockTarget<'_>,
        mode: LockMode,
        _timeout_ms: u32,
    ) -> Result<Box<dyn Lock>, LockError> {
        let path = match target {
            LockTarget::Run(run) => format!(".locks/{run}.lock"),
            LockTarget::Segment(name) => format!(".index/{name}.lock"),
            LockTarget::Maintenance => ".index/maintenance.lock".to_owned(),
        };
        let exists = {
            let state = self.state.borrow();
            if !state.working_locks {
                return Err(LockError::Unavailable("no locks here".into()));
            }
            state.disk.find(ROOT, &path).is_ok()
        };
        let kind = if exists {
            CallKind::Look
        } else {
            CallKind::Change
        };
        let opened = self.call(kind, |disk| {
            if let Ok(number) = disk.find(ROOT, &path) {
                return disk.file(number).map(|_| number);
            }
            let (directory, name) = disk.parent(ROOT, &path)?;
            let number = disk.add(Node::File(FileNode::default()));
            disk.change(vec![(directory, name.to_owned(), Some(number))]);
            Ok(number)
        });
        let file = opened.map_err(lock_failed)?;
        let mut state = self.state.borrow_mut();
        state.holders += 1;
        let holder = state.holders;
        let held = state.locks.entry(file).or_default();
        let free = match mode {
            LockMode::Shared => held.iter().all(|(.., mode)| *mode == LockMode::Shared),
            LockMode::Exclusive => held.is_empty(),
        };
        if !free {
            // Nothing else happens while one waits here.
            return Err(LockError::TimedOut);
        }
        held.push((holder, self.number, mode));
        Ok(Box::new(SimLock {
            process: self.clone(),
            file,
            holder,
        }))
    }

    fn sync(&self) -> Result<(), String> {
        let synced = self.call(CallKind::Sync, |disk| {
            disk.sync_all();
            Ok(())
        });
        synced.map_err(|reason| reason.to_string())
    }

    fn identity(&self) -> Identity {
        let state = self.state.borrow();
        Identity {
            machine: state.disk.machine.clone(),
            boot: format!("boot-{}", state.disk.boot),
            device: 5,
            inode: state.disk.inode,
        }
    }

    fn utc_offset(&self, _at_seconds: i64) -> i32 {
        0
    }
}

impl Clock for Process {
    fn now(&self) -> u64 {
        let disk = &mut self.state.borrow_mut().disk;
        disk.time += 10_000;
        disk.time
    }
}

impl Random for Process {
    fn next(&self) -> u64 {
        self.state.borrow_mut().numbers.next()
    }
}
