//! Plain columns, aligned, without lines around them.

/// Rows as lines; the first row is the heading. The last column is not padded.
pub(crate) fn lines(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|place| rows.iter().filter_map(|row| row.get(place)).map(|cell| cell.chars().count()).max().unwrap_or_default())
        .collect();
    let pad = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(pad).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let rows = [["RUN", "STATE"], ["brisk-otter-41", "failed"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(super::lines(&rows), ["RUN             STATE", "brisk-otter-41  failed"]);
    }
}
