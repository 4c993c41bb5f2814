//! The flow files of these tests.

pub(crate) const MARKED: &str = include_str!("../../flows/marked.py");
pub(crate) const WAITING: &str = include_str!("../../flows/waiting.py");
pub(crate) const SMALL: &str = include_str!("../../flows/small.py");
pub(crate) const ARRIVAL: &str = include_str!("../../flows/arrival.py");
pub(crate) const EVERYTHING: &str = include_str!("../../flows/everything.py");
pub(crate) const WIDE: &str = include_str!("../../flows/wide.py");
pub(crate) const LIMITS: &str = include_str!("../../flows/limits.py");
pub(crate) const GANG: &str = include_str!("../../flows/gang.py");
pub(crate) const GATED: &str = include_str!("../../flows/gated.py");
pub(crate) const PARENT: &str = include_str!("../../flows/parent.py");
pub(crate) const QUOTIENT: &str = include_str!("../../flows/quotient.py");
pub(crate) const TELLING: &str = include_str!("../../flows/telling.py");
pub(crate) const MENDED: &str = include_str!("../../flows/mended.py");
pub(crate) const POOLS: &str = include_str!("../../flows/pools.py");
pub(crate) const GREEDY: &str = include_str!("../../flows/greedy.py");
pub(crate) const ROGUE: &str = include_str!("../../flows/rogue.py");
pub(crate) const CONFINED: &str = include_str!("../../flows/confined.py");
pub(crate) const SECRETIVE: &str = include_str!("../../flows/secretive.py");
pub(crate) const PACKAGED: &str = include_str!("../../flows/packaged.py");
pub(crate) const LACKING: &str = include_str!("../../flows/lacking.py");
pub(crate) const DICE: &str = include_str!("../../flows/dice.py");

/// A flow that does in its first step what `body` says.
pub(crate) fn with_start(body: &str) -> String {
    format!(
        "from causey import FlowSpec, step\n\n\nclass Given(FlowSpec):\n    @step\n    def start(self):\n        {body}\n        self.next(self.end)\n\n\
         \n    @step\n    def end(self):\n        pass\n\n\nif __name__ == \"__main__\":\n    Given()\n"
    )
}
