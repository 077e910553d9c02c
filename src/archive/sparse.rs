//! Maps of sparse files: where a file has data, between its holes.

use std::io;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

/// Regions of one map. On the way in, what is beyond the last is packed with its holes.
pub(super) const REGIONS_MAX: usize = 1 << 20;

/// Data of a file: its place and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SparseRegion {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Regions of an open file of this size. `None`: it has no holes.
pub(super) fn find(
    file: BorrowedFd<'_>,
    size: u64,
    blocks: i64,
) -> io::Result<Option<Vec<SparseRegion>>> {
    if u64::try_from(blocks).unwrap_or_default() * 512 >= size {
        return Ok(None);
    }
    let mut regions: Vec<SparseRegion> = Vec::new();
    let mut at = 0;
    while at < size {
        if regions.len() == REGIONS_MAX - 1 {
            let (offset, length) = (at, size - at);
            regions.push(SparseRegion { offset, length });
            break;
        }
        let offset = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(offset) if offset < size => offset,
            Ok(_) | Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(offset))?.min(size);
        if end <= offset {
            break;
        }
        let length = end - offset;
        regions.push(SparseRegion { offset, length });
        at = end;
    }
    let is_full = regions.first()
        == Some(&SparseRegion {
            offset: 0,
            length: size,
        });
    Ok((!is_full).then_some(regions))
}

/// Map as it stands before the data of a file: GNU's format 1.0.
pub(super) fn written(regions: &[SparseRegion], size: u64) -> Vec<u8> {
    // A hole at the end is told by an empty region after it.
    let reaches = regions.last().map_or(0, |last| last.offset + last.length);
    let end = (reaches < size).then_some(SparseRegion {
        offset: size,
        length: 0,
    });
    let mut map = format!("{}\n", regions.len() + usize::from(end.is_some()));
    for region in regions.iter().chain(&end) {
        map.push_str(&format!("{}\n{}\n", region.offset, region.length));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(super::BLOCK), 0);
    map
}

/// Checks that regions are in order and within a file of this size; their data together.
pub(super) fn checked(regions: &[SparseRegion], size: u64) -> Option<u64> {
    let (mut at, mut data) = (0_u64, 0_u64);
    for region in regions {
        if region.offset < at {
            return None;
        }
        at = region.offset.checked_add(region.length)?;
        data += region.length;
    }
    (at <= size && i64::try_from(size).is_ok()).then_some(data)
}
