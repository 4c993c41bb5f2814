//! Writes the seeds of every decoder into a folder each, as the corpus that libFuzzer begins with.

use std::path::PathBuf;

use anyhow::Context as _;
use causey_tests::decoders::ALL;

fn main() -> anyhow::Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).context("give the folder of the corpus")?);
    for decoder in ALL {
        let place = folder.join(decoder.name);
        std::fs::create_dir_all(&place).with_context(|| format!("failed to make {}", place.display()))?;
        for (number, seed) in (decoder.seeds)().into_iter().enumerate() {
            let file = place.join(format!("seed-{number}"));
            std::fs::write(&file, seed).with_context(|| format!("failed to write {}", file.display()))?;
        }
    }
    Ok(())
}
