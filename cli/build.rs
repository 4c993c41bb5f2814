//! The Python SDK is embedded as a folder; this makes cargo notice when it changes.

fn main() {
    println!("cargo::rerun-if-changed=../sdk/python/causey");
}
