//! Maps of sparse files as they are read: GNU's formats 0.0, 0.1 and 1.0, and its old one.

use std::io::Read;

use tar::Header;

use super::super::BLOCK;
use super::super::sparse::{self, REGIONS_MAX, SparseRegion};
use super::{ArchiveEntries, ArchiveEntry, EntryKind, EntryRead, SparseRecords};

impl<R: Read> ArchiveEntries<R> {
    /// Reads where a file's data belong.
    pub(super) fn regions(
        &mut self,
        entry: &mut ArchiveEntry,
        header: &Header,
        records: &SparseRecords,
    ) -> EntryRead<()> {
        let stored = self.left;
        entry.size = stored;
        if entry.kind == EntryKind::OldSparse {
            entry.kind = EntryKind::Regular;
            (entry.size, entry.regions) = self.old_map(header)?;
        } else if records.is_map_in_data {
            entry.size = records.size.unwrap_or(stored);
            entry.regions = self.map_in_data()?;
        } else if records.size.is_some() || !records.numbers.is_empty() {
            entry.size = records.size.unwrap_or(stored);
            entry.regions = pairs(&records.numbers);
        } else {
            let length = stored;
            entry.regions.push(SparseRegion { offset: 0, length });
        }
        match sparse::checked(&entry.regions, entry.size) {
            Some(data) if data == self.left => Ok(()),
            _ => self.malformed("the map of its holes does not fit its size"),
        }
    }

    /// Map of GNU's format 1.0: numbers, a line each, before the data.
    fn map_in_data(&mut self) -> EntryRead<Vec<SparseRegion>> {
        let mut numbers = Vec::new();
        let mut wanted = 1;
        let mut number: Option<u64> = None;
        while numbers.len() < wanted {
            let mut block = [0; BLOCK];
            if self.data(&mut block)? < BLOCK {
                return self.malformed("the map of its holes is not complete");
            }
            for byte in block {
                match byte {
                    b'0'..=b'9' => {
                        let before = number.unwrap_or_default().checked_mul(10);
                        number = before.and_then(|before| before.checked_add((byte - b'0').into()));
                        if number.is_none() {
                            return self.malformed("the map of its holes has too large a number");
                        }
                    }
                    b'\n' if number.is_some() && numbers.len() < wanted => {
                        numbers.extend(number.take());
                    }
                    _ if numbers.len() >= wanted => break,
                    _ => return self.malformed("the map of its holes is not well-formed"),
                }
                if let ([count], 1) = (&numbers[..], wanted) {
                    let count = usize::try_from(*count).unwrap_or(usize::MAX);
                    if count > REGIONS_MAX {
                        return self.malformed("it has too many holes");
                    }
                    wanted = 1 + 2 * count;
                }
            }
        }
        Ok(pairs(&numbers[1..]))
    }

    /// Map of GNU's old format: in the header, and in blocks after it.
    fn old_map(&mut self, header: &Header) -> EntryRead<(u64, Vec<SparseRegion>)> {
        let Some(gnu) = header.as_gnu() else {
            return self.malformed("it is sparse, and its header is not GNU's");
        };
        let size = self.number(gnu.real_size(), "size")?;
        let mut regions = Vec::new();
        let mut add = |sparse: &[tar::GnuSparseHeader]| {
            for region in sparse.iter().filter(|region| !region.is_empty()) {
                let (offset, length) = (region.offset().ok()?, region.length().ok()?);
                regions.push(SparseRegion { offset, length });
            }
            (regions.len() < REGIONS_MAX).then_some(())
        };
        let mut is_fine = add(&gnu.sparse);
        let mut goes_on = gnu.is_extended();
        while goes_on && is_fine.is_some() {
            // Such blocks are of the header: they do not count as data.
            let mut more = tar::GnuExtSparseHeader::new();
            let block = self.block()?;
            more.as_mut_bytes().copy_from_slice(&block);
            is_fine = add(more.sparse());
            goes_on = more.is_extended();
        }
        match is_fine {
            Some(()) => Ok((size, regions)),
            None => self.malformed("the map of its holes is not well-formed"),
        }
    }
}

fn pairs(numbers: &[u64]) -> Vec<SparseRegion> {
    let region = |pair: &[u64]| SparseRegion {
        offset: pair[0],
        length: pair[1],
    };
    numbers.chunks_exact(2).map(region).collect()
}
