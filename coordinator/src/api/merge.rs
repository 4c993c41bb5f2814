//! The output of attempts out of two sources: pieces that come live, of which some come twice and some never, and what is stored when an
//! attempt has ended. Every piece says where in its attempt's text it stands, so each byte is given out once, and what was lost is
//! named. Pure.

use std::collections::BTreeMap;

use causey_protocol::id::StepName;
use causey_protocol::live::news;
use serde::Serialize;

use super::logs::ChunkView;

/// Pieces held back for one attempt until an earlier one comes.
const HELD_MAX: usize = 1_024;

/// One attempt: step, task, number.
pub(super) type Attempt = (StepName, String, u32);

/// What a follower is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Output(ChunkView),
    Gap(Gap),
}

/// Text that has been printed and is not shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Gap {
    pub(super) step: StepName,
    pub(super) task: String,
    pub(super) attempt: u32,
    pub(super) from: u64,
    pub(super) to: u64,
}

#[derive(Debug, Default)]
struct Given {
    /// Where in the attempt's text the next piece begins.
    position: u64,
    ended: bool,
    held: Vec<ChunkView>,
}

/// What has been given out of each attempt.
#[derive(Debug, Default)]
pub(super) struct Merge(BTreeMap<Attempt, Given>);

impl Merge {
    /// The follower has this attempt's text up to here.
    pub(super) fn resume(&mut self, attempt: Attempt, position: u64) {
        self.0.entry(attempt).or_default().position = position;
    }

    /// Takes a live piece. With `patient` one that follows something missing is held back: that may be on its way.
    pub(super) fn live(&mut self, piece: ChunkView, patient: bool) -> Vec<Piece> {
        let given = self.0.entry(attempt_of(&piece)).or_default();
        if given.ended {
            return Vec::new();
        }
        if patient && piece.position > given.position && given.held.len() < HELD_MAX {
            given.held.push(piece);
            return Vec::new();
        }
        let mut pieces = Vec::new();
        given.give(piece, &mut pieces);
        given.held.sort_by_key(|held| held.position);
        let ready = given.held.partition_point(|held| held.position <= given.position);
        let ready: Vec<ChunkView> = given.held.drain(..ready).collect();
        ready.into_iter().for_each(|held| given.give(held, &mut pieces));
        pieces
    }

    /// Nothing that is missing will come any more.
    pub(super) fn give_up(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for given in self.0.values_mut() {
            let mut held = std::mem::take(&mut given.held);
            held.sort_by_key(|held| held.position);
            held.into_iter().for_each(|held| given.give(held, &mut pieces));
        }
        pieces
    }

    /// An attempt has ended: no live piece counts any more. Returns whether that is news.
    pub(super) fn end(&mut self, attempt: Attempt) -> bool {
        let given = self.0.entry(attempt).or_default();
        !std::mem::replace(&mut given.ended, true)
    }

    /// Takes what an ended attempt has left; where there is nothing, what is held of it is all.
    pub(super) fn stored(&mut self, attempt: &Attempt, stored: Vec<ChunkView>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let Some(given) = self.0.get_mut(attempt) else { return pieces };
        let mut all = if stored.is_empty() { std::mem::take(&mut given.held) } else { stored };
        given.held = Vec::new();
        all.sort_by_key(|piece| piece.position);
        all.into_iter().for_each(|piece| given.give(piece, &mut pieces));
        pieces
    }
}

impl Given {
    fn give(&mut self, mut piece: ChunkView, pieces: &mut Vec<Piece>) {
        let end = piece.position + piece.text.len() as u64;
        let Some((position, text)) = news(piece.position, &piece.text, self.position) else { return };
        if piece.position > self.position {
            let (step, task, attempt) = attempt_of(&piece);
            pieces.push(Piece::Gap(Gap { step, task, attempt, from: self.position, to: piece.position }));
        }
        if text.len() < piece.text.len() {
            (piece.position, piece.text) = (position, text.to_owned());
        }
        self.position = end;
        pieces.push(Piece::Output(piece));
    }
}

fn attempt_of(piece: &ChunkView) -> Attempt {
    (piece.step.clone(), piece.task.clone(), piece.attempt)
}

#[cfg(test)]
mod tests {
    use causey_protocol::live::OutputStream;

    use super::*;

    fn piece(position: u64, text: &str) -> ChunkView {
        ChunkView {
            step: "work".parse().unwrap(),
            task: "0".into(),
            attempt: 0,
            micros: 0,
            stream: OutputStream::Stdout,
            text: text.into(),
            position,
        }
    }

    fn attempt() -> Attempt {
        attempt_of(&piece(0, ""))
    }

    /// The text, gaps as their size.
    fn text(pieces: &[Piece]) -> String {
        let word = |piece: &Piece| match piece {
            Piece::Output(piece) => piece.text.clone(),
            Piece::Gap(gap) => format!("<{}>", gap.to - gap.from),
        };
        pieces.iter().map(word).collect()
    }

    #[test]
    fn what_comes_twice_is_given_once_and_the_stored_rest_follows_without_gap() {
        let mut merge = Merge::default();
        assert_eq!(text(&merge.live(piece(0, "one "), false)), "one ");
        assert_eq!(text(&merge.live(piece(0, "one "), false)), "");
        assert_eq!(text(&merge.live(piece(4, "two "), false)), "two ");
        assert!(merge.end(attempt()) && !merge.end(attempt()));
        assert_eq!(text(&merge.live(piece(8, "late"), false)), "", "it is in what is stored");
        let stored = vec![piece(0, "one "), piece(4, "two three "), piece(14, "four")];
        assert_eq!(text(&merge.stored(&attempt(), stored)), "three four");
    }

    #[test]
    fn who_comes_late_gets_what_was_printed_before_in_order() {
        let mut merge = Merge::default();
        assert_eq!(text(&merge.live(piece(8, "now "), true)), "");
        assert_eq!(text(&merge.live(piece(0, "sent "), true)), "sent ");
        assert_eq!(text(&merge.live(piece(5, "bef"), true)), "befnow ");
        assert_eq!(text(&merge.live(piece(12, "on"), true)), "on");
    }

    #[test]
    fn what_does_not_come_is_named() {
        let mut merge = Merge::default();
        assert_eq!(text(&merge.live(piece(100, "a"), true)), "");
        assert_eq!(text(&merge.give_up()), "<100>a");
        assert_eq!(text(&merge.live(piece(200, "b"), false)), "<99>b");
        merge.end(attempt());
        assert_eq!(text(&merge.stored(&attempt(), vec![])), "", "its worker has vanished and left nothing");
    }

    #[test]
    fn who_resumes_gets_what_is_new_to_him() {
        let mut merge = Merge::default();
        merge.resume(attempt(), 6);
        merge.end(attempt());
        assert_eq!(text(&merge.stored(&attempt(), vec![piece(0, "one two three")])), "o three");
    }
}
