//! Maps the component's surface to the store.
#![allow(missing_docs)]
wit_bindgen::generate!({ path: "../wit", world: "metalab-store", generate_all });
