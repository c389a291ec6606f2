//! Capture: frames in classic pcap files, which is what DPDK's `net_pcap` reads and writes.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// Writes `frames` to a file.
pub(crate) fn write(file: &Path, frames: impl Iterator<Item = Vec<u8>>) -> Result<()> {
    let at = || file.display().to_string();
    let mut out = BufWriter::new(File::create(file).with_context(at)?);
    let header = [MAGIC, 4 << 16 | 2, 0, 0, SNAPLEN, ETHERNET];
    for word in header {
        out.write_all(&word.to_ne_bytes()).with_context(at)?;
    }
    for frame in frames {
        let len = frame.len() as u32;
        for word in [0, 0, len, len] {
            out.write_all(&word.to_ne_bytes()).with_context(at)?;
        }
        out.write_all(&frame).with_context(at)?;
    }
    out.flush().with_context(at)
}

/// Shows the frames of a file that was written on this machine; one that is cut off at the end is left out.
pub(crate) fn read(file: &Path, mut see: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let bytes = fs::read(file).with_context(|| file.display().to_string())?;
    let (header, mut rest) = bytes.split_at_checked(24).context("a short file")?;
    ensure!(
        [MAGIC, MAGIC_NANOSECONDS]
            .map(u32::to_ne_bytes)
            .contains(&word(header, 0)?),
        "{} is no pcap file of this machine",
        file.display()
    );
    while let Some((record, after)) = rest.split_at_checked(16) {
        let len = u32::from_ne_bytes(word(record, 8)?) as usize;
        let Some((frame, after)) = after.split_at_checked(len) else {
            break;
        };
        see(frame)?;
        rest = after;
    }
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> Result<[u8; 4]> {
    let word = bytes.get(at..at + 4).context("a short file")?;
    Ok(word.try_into()?)
}

const MAGIC: u32 = 0xa1b2_c3d4;
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const SNAPLEN: u32 = 65_535;
const ETHERNET: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_a_torn_one_does_not() {
        let file = std::env::temp_dir().join(format!("bench-capture-{}", std::process::id()));
        let frames = [vec![1; 60], vec![2; 1514], vec![3; 61]];
        write(&file, frames.iter().cloned()).unwrap();
        let seen = || {
            let mut seen = Vec::new();
            read(&file, |frame| {
                seen.push(frame.to_vec());
                Ok(())
            })
            .unwrap();
            seen
        };
        assert_eq!(seen(), frames);
        let mut bytes = fs::read(&file).unwrap();
        bytes.pop();
        fs::write(&file, bytes).unwrap();
        assert_eq!(seen(), frames[..2]);
        fs::remove_file(&file).unwrap();
    }
}
