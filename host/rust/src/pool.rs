//! The instances of an open store: started when needed, shared by threads, replaced when they fail.
//!
//! An instance is taken for one call at a time. Readers, writers and lists live in the instance that made
//! them and take it again for each of their calls, so that holding one never keeps others from working.

use crate::bindings::exports::metalab::store::store::StoreOptions;
use crate::bindings::exports::metalab::store::types::Error as WireError;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::grant::Grant;
use crate::instance::{Instance, Limits};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use wasmtime::component::ResourceAny;

/// The stack of a thread that calls components, in bytes: in place of one of a Tokio runtime, or for a plugin, which
/// calls the store's component from its own.
pub(crate) const STACK: usize = 4 * 1024 * 1024;

/// The answer of the component: the outer error is a trap.
pub(crate) type Answer<T> = wasmtime::Result<std::result::Result<T, WireError>>;

/// Runs a closure on a thread that is not one of a Tokio runtime: the WASI host blocks inside, and would
/// panic there.
pub(crate) fn off_runtime<T: Send>(function: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if tokio::runtime::Handle::try_current().is_err() {
        return function();
    }
    std::thread::scope(|scope| {
        let started = std::thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, function);
        let thread =
            started.map_err(|error| Error::Engine(format!("no thread can be started: {error}")))?;
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::Engine("a thread of the store panicked".to_owned())))
    })
}

/// The instances of an open store.
pub(crate) struct Pool {
    engine: Engine,
    grant: Grant,
    options: StoreOptions,
    limits: Limits,
    slots: Mutex<Slots>,
    returned: Condvar,
}

struct Slots {
    /// As many as there may be instances.
    list: Vec<Slot>,
    closed: bool,
}

/// A place for an instance. Empty and not busy, it is free for a new one.
#[derive(Default)]
struct Slot {
    opened: Option<Opened>,
    busy: bool,
    /// Counts the instances that failed here: resources of an earlier one are gone.
    generation: u64,
}

/// An instance with the store opened in it.
struct Opened {
    instance: Instance,
    store: ResourceAny,
    /// Its readers, writers and lists that are still held.
    resources: Vec<ResourceAny>,
}

impl Opened {
    /// Ends the store's work in the instance.
    fn close(mut self) -> Result<()> {
        // An unfinished writer would leave its file behind.
        for resource in std::mem::take(&mut self.resources) {
            self.instance
                .call(|instance| Ok(Ok(resource.resource_drop(&mut instance.store)?)))??;
        }
        let store = self.store;
        self.instance.call(|instance| {
            let guest = instance.bindings.metalab_store_store().store();
            guest.call_close(&mut instance.store, store)
        })?
    }
}

impl Pool {
    /// Starts the first of at most so many instances, so that errors of the directory show at once.
    pub(crate) fn open(
        engine: Engine,
        grant: Grant,
        options: StoreOptions,
        limits: Limits,
        max_instances: usize,
    ) -> Result<Self> {
        let mut list = Vec::new();
        list.resize_with(max_instances.max(1), Slot::default);
        let pool = Self {
            engine,
            grant,
            options,
            limits,
            slots: Mutex::new(Slots {
                list,
                closed: false,
            }),
            returned: Condvar::new(),
        };
        off_runtime(|| pool.take_any().map(drop))?;
        Ok(pool)
    }

    /// Returns what the instances are granted.
    pub(crate) fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Calls the component's store in any instance. One that fails is dropped; a later call starts another.
    pub(crate) fn call<T: Send>(
        &self,
        function: impl FnOnce(&mut Instance, ResourceAny) -> Answer<T> + Send,
    ) -> Result<T> {
        off_runtime(|| self.take_any()?.call(function))
    }

    /// As [`call`](Self::call), for a call that returns a resource.
    pub(crate) fn open_resource(
        self: &Arc<Self>,
        function: impl FnOnce(&mut Instance, ResourceAny) -> Answer<ResourceAny> + Send,
    ) -> Result<Resource> {
        off_runtime(|| {
            let mut lease = self.take_any()?;
            let handle = lease.call(function)?;
            if let Some(opened) = &mut lease.opened {
                opened.resources.push(handle);
            }
            Ok(Resource {
                pool: Arc::clone(self),
                index: lease.index,
                generation: lease.generation,
                handle,
            })
        })
    }

    /// Closes all instances, when the calls that run have ended. Later calls are [`Error::Closed`].
    pub(crate) fn close(&self) -> Result<()> {
        off_runtime(|| {
            let mut slots = self.slots();
            slots.closed = true;
            self.returned.notify_all();
            while slots.list.iter().any(|slot| slot.busy) {
                slots = self.wait(slots);
            }
            let opened: Vec<_> = slots
                .list
                .iter_mut()
                .map(|slot| slot.opened.take())
                .collect();
            drop(slots);
            let closed = opened.into_iter().flatten().map(Opened::close);
            let closed = closed.fold(Ok(()), Result::and);
            self.grant.bindings().close();
            closed
        })
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Nothing that holds the lock can leave the slots in a wrong state.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, slots: MutexGuard<'a, Slots>) -> MutexGuard<'a, Slots> {
        let waited = self.returned.wait(slots);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    fn take_any(&self) -> Result<Lease<'_>> {
        let mut slots = self.slots();
        let (index, opened) = loop {
            if slots.closed {
                return Err(Error::Closed);
            }
            let free = slots.list.iter().enumerate().filter(|(_, slot)| !slot.busy);
            // Started ones first, and among them one that nobody reads a list or an artifact from.
            let best = free.min_by_key(|(_, slot)| match &slot.opened {
                Some(opened) => opened.resources.len(),
                None => usize::MAX,
            });
            if let Some((index, _)) = best {
                break (index, slots.list[index].opened.take());
            }
            slots = self.wait(slots);
        };
        let mut lease = self.lease(&mut slots, index, opened);
        drop(slots);
        if lease.opened.is_none() {
            lease.opened = Some(self.start()?);
        }
        Ok(lease)
    }

    /// Takes the instance that a resource lives in.
    fn take(&self, index: usize, generation: u64) -> Result<Lease<'_>> {
        let mut slots = self.slots();
        loop {
            if slots.closed {
                return Err(Error::Closed);
            }
            let slot = &mut slots.list[index];
            if slot.generation != generation {
                return Err(Error::Trap(
                    "the instance that this was opened in is gone; open it again".to_owned(),
                ));
            }
            if !slot.busy {
                let opened = slot.opened.take();
                return Ok(self.lease(&mut slots, index, opened));
            }
            slots = self.wait(slots);
        }
    }

    fn lease(&self, slots: &mut Slots, index: usize, opened: Option<Opened>) -> Lease<'_> {
        let slot = &mut slots.list[index];
        slot.busy = true;
        Lease {
            pool: self,
            index,
            generation: slot.generation,
            opened,
            unwinding: std::thread::panicking(),
        }
    }

    fn start(&self) -> Result<Opened> {
        let mut instance = Instance::new(&self.engine, Some(&self.grant), self.limits)?;
        let store = instance.call(|instance| {
            let guest = instance.bindings.metalab_store_store().store();
            guest.call_open(&mut instance.store, &self.options)
        })??;
        Ok(Opened {
            instance,
            store,
            resources: Vec::new(),
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Who wants to know whether it worked calls `close`.
        self.close().ok();
    }
}

/// An instance taken for a call. It goes back when this is dropped, unless it failed.
struct Lease<'a> {
    pool: &'a Pool,
    index: usize,
    generation: u64,
    opened: Option<Opened>,
    /// Whether the thread was unwinding already: then it is not for what happens in this call.
    unwinding: bool,
}

impl Lease<'_> {
    fn call<T>(
        &mut self,
        function: impl FnOnce(&mut Instance, ResourceAny) -> Answer<T>,
    ) -> Result<T> {
        let Some(opened) = &mut self.opened else {
            return Err(Error::Trap("the instance is gone".to_owned()));
        };
        let store = opened.store;
        let called = opened.instance.call(|instance| function(instance, store));
        called.unwrap_or_else(|failure| {
            // After a trap the component cannot be entered again.
            self.opened = None;
            Err(failure)
        })
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut opened = self.opened.take();
        if std::thread::panicking() && !self.unwinding {
            // Nobody knows in which state the instance is.
            opened = None;
        }
        let mut slots = self.pool.slots();
        let slot = &mut slots.list[self.index];
        slot.busy = false;
        if opened.is_none() {
            slot.generation += 1;
        }
        slot.opened = opened;
        drop(slots);
        self.pool.returned.notify_all();
    }
}

/// A reader, writer or list of the component. Dropped there when it is dropped here.
pub(crate) struct Resource {
    pool: Arc<Pool>,
    index: usize,
    generation: u64,
    handle: ResourceAny,
}

impl Resource {
    /// Calls the component on the resource, in its instance.
    pub(crate) fn call<T: Send>(
        &self,
        function: impl FnOnce(&mut Instance, ResourceAny) -> Answer<T> + Send,
    ) -> Result<T> {
        off_runtime(|| {
            let mut lease = self.pool.take(self.index, self.generation)?;
            lease.call(|instance, _| function(instance, self.handle))
        })
    }
}

impl Drop for Resource {
    fn drop(&mut self) {
        let dropped = off_runtime(|| {
            let mut lease = self.pool.take(self.index, self.generation)?;
            if let Some(opened) = &mut lease.opened {
                opened.resources.retain(|held| *held != self.handle);
            }
            lease.call(|instance, _| Ok(Ok(self.handle.resource_drop(&mut instance.store)?)))
        });
        // It went with its instance, or the instance goes with it: there is nobody to tell.
        dropped.ok();
    }
}
