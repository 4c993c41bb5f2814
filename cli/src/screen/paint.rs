//! Colours, or none: decided once per stream from the terminal, `NO_COLOR` and `CLICOLOR_FORCE`. Everything stays readable without.

/// Adds colours where they are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint {
    colour: bool,
}

impl Paint {
    /// No colours.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { colour: false }
    }

    pub(crate) fn stderr() -> Self {
        Self { colour: anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never }
    }

    pub(crate) fn stdout() -> Self {
        Self { colour: anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never }
    }

    pub(crate) fn has_colour(self) -> bool {
        self.colour
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    pub(crate) fn cyan(self, text: &str) -> String {
        self.wrap("36", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }
}
