//! Directory listings without open directories.
//!
//! The kernel is told that directories need no opening, and then caches their listings; so there
//! is no handle that a listing could belong to. Instead each line has a *cookie* made of its name,
//! and a listing goes on after the cookie that it is told: what was made or removed meanwhile
//! neither hides nor repeats another name, as in ext4. A listing that takes several requests is
//! kept until its last line, for speed alone.

use super::error::FsError;
use super::layers::Place;
use super::read::Attr;
use super::{View, notices};
use crate::gate::Notice;
use lru::LruCache;
use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hasher};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};

/// The cookies of `.` and `..`, which come first and are the caller's.
pub const DOTS: u64 = 2;

/// How many unfinished listings are kept.
const KEPT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);

/// The names of one directory at one moment, ordered by cookie.
#[derive(Debug)]
pub struct Listing {
    ino: u64,
    lines: Vec<(u64, OsString)>,
}

/// One line of a listing.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// Where a listing goes on after it.
    pub cookie: u64,
    /// Its name.
    pub name: OsString,
    /// Its attributes; none if it is gone by now.
    pub attr: Option<Attr>,
}

impl Listing {
    fn new(ino: u64, names: Vec<OsString>) -> Self {
        let mut lines: Vec<_> = names.into_iter().map(|name| (cookie(&name), name)).collect();
        lines.sort();
        Self { ino, lines }
    }

    /// The index of the first line after a cookie.
    pub fn after(&self, cookie: u64) -> usize {
        self.lines.partition_point(|(at, _)| *at <= cookie)
    }
}

/// Above those of the dots, and positive where the C library has signed offsets.
fn cookie(name: &OsStr) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name.as_bytes());
    (hasher.finish() >> 1).max(DOTS + 1)
}

/// The listings that are not at their end.
#[derive(Debug)]
pub(super) struct Listings(Mutex<LruCache<u64, Arc<Listing>>>);

impl Default for Listings {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(KEPT)))
    }
}

impl Listings {
    fn get(&self, ino: u64) -> Option<Arc<Listing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&ino).cloned()
    }

    fn keep(&self, ino: u64, listing: Arc<Listing>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(ino, listing);
    }

    fn drop(&self, ino: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop(&ino);
    }
}

impl View {
    /// The names in the directory `ino`, taken anew if the caller is at the beginning.
    pub fn list(&self, ino: u64, after: u64) -> Result<Arc<Listing>, FsError> {
        if after > 0
            && let Some(listing) = self.listings.get(ino)
        {
            return Ok(listing);
        }
        let listing = Arc::new(self.take_listing(ino)?);
        self.listings.keep(ino, listing.clone());
        Ok(listing)
    }

    /// The listing of `ino` has been read to its end.
    pub fn end_list(&self, ino: u64) {
        self.listings.drop(ino);
    }

    fn take_listing(&self, ino: u64) -> Result<Listing, FsError> {
        if ino == notices::DIRECTORY_INO {
            let names = Notice::ALL.iter().map(|(_, name)| OsString::from(name)).collect();
            return Ok(Listing::new(ino, names));
        }
        let _names = self.read_names();
        let path = self.path_of(ino)?;
        let dir = self.layers.dir(&path)?;
        let mut names = dir.list()?;
        if path.is_root() {
            names.retain(|name| !notices::is_unlisted(name));
            names.push(OsString::from(notices::DIRECTORY));
        }
        Ok(Listing::new(ino, names))
    }

    /// Line `index` of a listing; none past the end. The kernel knows the node once more.
    pub fn list_entry(&self, listing: &Listing, index: usize) -> Result<Option<DirEntry>, FsError> {
        let Some((cookie, name)) = listing.lines.get(index) else { return Ok(None) };
        let attr = if listing.ino == notices::DIRECTORY_INO {
            notices::by_name(name).map(|notice| self.fresh_attr(notice)).transpose()?
        } else if listing.ino == super::ROOT && name == notices::DIRECTORY {
            Some(self.virtual_dir_attr()?)
        } else {
            // The directory as it is by now: it may have moved, or come to be in the delta.
            let _names = self.read_names();
            let path = self.path_of(listing.ino)?;
            let place = Place { dir: self.layers.dir(&path)?, name: name.clone() };
            self.attr_at(&path.join(name), &place)?.map(|(attr, _)| attr)
        };
        Ok(Some(DirEntry { cookie: *cookie, name: name.clone(), attr }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_goes_on_after_a_name_that_is_gone_and_shows_each_other_once() {
        let names = |range: std::ops::Range<u32>| range.map(|n| n.to_string().into()).collect();
        let first = Listing::new(super::super::ROOT, names(0..1000));
        let (cookie, _) = &first.lines[499];
        let seen: Vec<_> = first.lines[..500].iter().map(|(_, name)| name.clone()).collect();
        let mut left: Vec<OsString> = names(0..2000);
        left.retain(|name| *name != first.lines[499].1);
        let second = Listing::new(super::super::ROOT, left);
        let rest: Vec<_> = second.lines[second.after(*cookie)..].iter().map(|l| &l.1).collect();
        assert!(rest.iter().all(|name| !seen.contains(name)));
        let all = first.lines[500..].iter().all(|(_, name)| rest.contains(&name));
        assert!(all, "what was there all the time is shown");
    }
}
