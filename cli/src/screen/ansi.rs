//! Escape sequences in what steps print. Stored output has them as they were printed; where they cannot be shown they are left out, and
//! in a line with a label only colours are kept, because anything else could move the cursor. Pure.

use anstream::adapter::strip_str;

use crate::screen::format::clip;

/// Ends all colours.
const RESET: &str = "\x1b[0m";

/// A line without escape sequences and at most `width` characters.
pub(crate) fn plain(line: &str, width: usize) -> String {
    clip(&strip_str(line).to_string(), width)
}

/// A line with its colours and at most `width` characters beside them.
pub(crate) fn coloured(line: &str, width: usize) -> String {
    if !line.contains('\x1b') {
        return clip(line, width);
    }
    let (mut shown, mut left, mut painted) = (String::new(), width, false);
    for (text, colour) in pieces(line) {
        let text = plain(text, left);
        left -= text.chars().count().min(left);
        shown.push_str(&text);
        if left > 0 {
            painted |= !colour.is_empty();
            shown.push_str(colour);
        }
    }
    if painted {
        shown.push_str(RESET);
    }
    shown
}

/// Text, and the colour that follows it.
fn pieces(line: &str) -> Vec<(&str, &str)> {
    let (mut pieces, mut from, mut at) = (Vec::new(), 0, 0);
    while let Some(found) = line[at..].find("\x1b[") {
        let start = at + found;
        let parameters = line[start + 2..].bytes().take_while(|byte| byte.is_ascii_digit() || matches!(byte, b';' | b':')).count();
        let end = start + 2 + parameters;
        at = end;
        if line.as_bytes().get(end) == Some(&b'm') {
            at = end + 1;
            pieces.push((&line[from..start], &line[start..at]));
            from = at;
        }
    }
    pieces.push((&line[from..], ""));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "\x1b[31mred\x1b[0m and \x1b[1;38;5;4mblue\x1b[2J\x1b]0;title\x07 end";

    #[test]
    fn a_line_without_colours_has_no_escape_left() {
        assert_eq!(plain(LINE, 80), "red and blue end");
        assert_eq!(plain("100 %\u{1f600}", 80), "100 %\u{1f600}");
        assert_eq!(plain("abcdef", 4), "abc…");
    }

    #[test]
    fn a_coloured_line_keeps_colours_and_nothing_that_moves_the_cursor() {
        assert_eq!(coloured(LINE, 80), "\x1b[31mred\x1b[0m and \x1b[1;38;5;4mblue end\x1b[0m");
        assert_eq!(coloured("plain", 80), "plain");
        assert_eq!(coloured("\x1b[", 80), "");
    }

    #[test]
    fn colours_do_not_count_as_width() {
        assert_eq!(coloured("\x1b[31mabcdef\x1b[0m", 4), "\x1b[31mabc…\x1b[0m");
    }
}
