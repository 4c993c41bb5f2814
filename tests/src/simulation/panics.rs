//! Panics of this thread: a task that panics ends without a word, and nothing in the world may.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Begins to look for panics, or begins anew.
pub(crate) fn forget() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            SEEN.with_borrow_mut(|seen| seen.push(format!("somebody panicked: {panic}")));
            before(panic);
        }));
    });
    SEEN.take();
}

/// The panics of this thread since.
pub(crate) fn seen() -> Vec<String> {
    SEEN.take()
}
