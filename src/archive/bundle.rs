//! Archive of files that are in memory.

use std::fs::File;
use std::io;
use std::time::SystemTime;

/// Level of compression: text of some megabytes takes less than a second.
const ZSTD_LEVEL: i32 = 9;
/// Mode of each file in it.
const MODE: u32 = 0o600;

/// Writes files (name, content) as a tar archive that zstd has compressed. Blocks.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn bundled(file: File, files: &[(String, Vec<u8>)]) -> io::Result<()> {
    let encoder = zstd::stream::write::Encoder::new(file, ZSTD_LEVEL)?;
    let mut archive = tar::Builder::new(encoder);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(MODE);
        header.set_mtime(now.as_ref().map_or(0, std::time::Duration::as_secs));
        archive.append_data(&mut header, name, content.as_slice())?;
    }
    archive.into_inner()?.finish()?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("b.tar.zst");
        let files = [
            ("a/b.txt".to_owned(), b"text".to_vec()),
            ("c".to_owned(), Vec::new()),
        ];
        bundled(File::create(&path).unwrap(), &files).unwrap();
        let decoder = zstd::stream::read::Decoder::new(File::open(&path).unwrap()).unwrap();
        let mut archive = tar::Archive::new(decoder);
        let found: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (entry.path().unwrap().to_str().unwrap().to_owned(), content)
            })
            .collect();
        assert_eq!(found, files);
    }
}
