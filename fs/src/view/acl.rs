//! Access control lists, as far as a file system has to know them: what a new entry inherits, and
//! whose entries are shown as whose. Who may do what is the kernel's business.
//!
//! Values alone. A list is the value of an extended attribute: a version, then entries of a tag, a
//! permission and an id, all little-endian. What is no such list is left as it is.

/// The attribute of a directory that says what is inherited in it.
pub(super) const DEFAULT: &str = "system.posix_acl_default";
/// The attribute that says who may do what.
pub(super) const ACCESS: &str = "system.posix_acl_access";

const HEAD: usize = 4;
const ENTRY: usize = 8;
const VERSION: [u8; HEAD] = 2_u32.to_le_bytes();

const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const OWNING_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHERS: u16 = 0x20;

fn is_list(value: &[u8]) -> bool {
    value.starts_with(&VERSION) && (value.len() - HEAD).is_multiple_of(ENTRY)
}

fn tag(entry: &[u8]) -> u16 {
    u16::from_le_bytes([entry[0], entry[1]])
}

/// The list with the ids that `map` makes of those of users and of groups.
pub(super) fn with_ids(value: &[u8], map: impl Fn((u32, u32)) -> (u32, u32)) -> Vec<u8> {
    let mut mapped = value.to_vec();
    if !is_list(value) {
        return mapped;
    }
    for entry in mapped[HEAD..].chunks_exact_mut(ENTRY) {
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let new = match tag(entry) {
            USER => map((id, 0)).0,
            GROUP => map((0, id)).1,
            _ => id,
        };
        entry[4..].copy_from_slice(&new.to_le_bytes());
    }
    mapped
}

/// What something that is made with the permission bits `mode` inherits: its list is the
/// directory's default, without what the bits do not allow.
pub(super) fn inherited(default: &[u8], mode: u32) -> Vec<u8> {
    let mut list = default.to_vec();
    if !is_list(default) {
        return list;
    }
    let has_mask = default[HEAD..].chunks_exact(ENTRY).any(|entry| tag(entry) == MASK);
    for entry in list[HEAD..].chunks_exact_mut(ENTRY) {
        let allowed = match tag(entry) {
            OWNER => mode >> 6,
            MASK => mode >> 3,
            OWNING_GROUP if !has_mask => mode >> 3,
            OTHERS => mode,
            _ => 0o7,
        };
        entry[2] &= (allowed & 0o7) as u8;
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u8, u32)]) -> Vec<u8> {
        let mut value = VERSION.to_vec();
        for (tag, permission, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend([*permission, 0]);
            value.extend(id.to_le_bytes());
        }
        value
    }

    #[test]
    fn what_is_inherited_is_what_the_mode_allows() {
        let of = |mask: u8, owner: u8, others: u8| {
            let (named, group) = ((USER, 7, 5), (OWNING_GROUP, 5, 0));
            list(&[(OWNER, owner, 0), named, group, (MASK, mask, 0), (OTHERS, others, 0)])
        };
        assert_eq!(inherited(&of(7, 7, 5), 0o640), of(4, 6, 0));
        assert_eq!(inherited(&of(5, 7, 0), 0o777), of(5, 7, 0));
        let short = |group| list(&[(OWNER, 6, 0), (OWNING_GROUP, group, 0), (OTHERS, 0, 0)]);
        assert_eq!(inherited(&short(7), 0o644), short(4));
        assert_eq!(inherited(b"no list", 0), b"no list");
    }

    #[test]
    fn users_and_groups_are_told_apart_and_the_rest_has_no_ids() {
        let of = |user, group| list(&[(OWNER, 7, 9), (USER, 7, user), (GROUP, 7, group)]);
        assert_eq!(with_ids(&of(9, 9), |(uid, gid)| (uid + 1, gid + 2)), of(10, 11));
    }
}
