//! The generated bindings of the contract. Private: what leaves this crate is listed in `types`.

#![allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    reason = "generated: an expectation would depend on the generator's version"
)]

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "metalab-store",
    additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
    imports: { default: trappable },
    with: {
        "metalab:store/roots.lock": crate::roots::HeldLock,
        "metalab:store/bulk.reader": crate::bulk::HeldReader,
        "metalab:store/postgres.transaction": crate::postgres::HeldTransaction,
        "metalab:store/postgres.cursor": crate::postgres::HeldCursor,
        "metalab:store/postgres.copy-writer": crate::postgres::HeldCopy,
    },
});
