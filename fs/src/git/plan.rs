//! What of a repository a snapshot takes, and how. Pure: names and texts in, decisions out.
//!
//! A linked worktree has two directories: its own, and the common one of all worktrees. Which
//! names count in which is git's rule (gitrepository-layout(5)).

use std::path::Path;

/// What becomes of one name at the top of a git directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Treatment {
    // In this order. References come before all objects, so that each that is copied finds what it
    // names; loose ones before packed ones, because git packs before it deletes.
    /// Copied, with all below.
    Copy,
    /// Loose references: copied.
    Refs,
    /// Packed references: copied.
    PackedRefs,
    /// The settings: copied, with ours at the end.
    Config,
    /// What other worktrees have of their own: copied of those inside the workspace.
    Worktrees,
    /// Git directories of submodules.
    Modules,
    /// Large files that git finds by their content's hash and never writes to: linked.
    Store,
    /// Objects: linked, with those of the alternates.
    Objects,
    /// Not taken.
    Skip,
}

/// Whose directory a name was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The one that the worktree's `.git` is or names.
    Own,
    /// The one that it shares with other worktrees.
    Common,
}

/// The name of this software's own directory in a git directory.
pub(super) const OURS: &str = "agentfs";

/// What a common directory gives to all its worktrees.
const COMMON: [&str; 18] = [
    "annex",
    "branches",
    "common",
    "config",
    "description",
    "hooks",
    "info",
    "lfs",
    "logs",
    "lost-found",
    "objects",
    "packed-refs",
    "refs",
    "reftable",
    "remotes",
    "rr-cache",
    "shallow",
    "svn",
];

/// What concerns only the real worktree, other processes, or is this software's own.
const SKIPPED: [&str; 8] = [
    "agentfs",
    "commondir",
    "fsmonitor--daemon",
    "fsmonitor--daemon.ipc",
    "gc.log",
    "gc.pid",
    "gitdir",
    "locked",
];

/// What becomes of `name` at the top of a git directory.
pub(super) fn treatment(name: &[u8], origin: Origin) -> Treatment {
    let is_one_of = |names: &[&str]| names.iter().any(|known| known.as_bytes() == name);
    if is_one_of(&SKIPPED) || is_lock(name) {
        return Treatment::Skip;
    }
    if origin == Origin::Common && !is_one_of(&COMMON) {
        return Treatment::Skip;
    }
    match name {
        b"refs" => Treatment::Refs,
        b"packed-refs" => Treatment::PackedRefs,
        b"config" | b"config.worktree" => Treatment::Config,
        b"worktrees" => Treatment::Worktrees,
        b"modules" => Treatment::Modules,
        b"lfs" | b"annex" => Treatment::Store,
        b"objects" => Treatment::Objects,
        _ => Treatment::Copy,
    }
}

/// Whether a path below the top of a git directory is taken.
pub(super) fn is_taken(path: &Path, origin: Origin) -> bool {
    let Some(name) = path.file_name() else { return true };
    // Most files of a new repository are examples of hooks, which nothing ever reads.
    let is_example = path.starts_with("hooks") && path.extension().is_some_and(|e| e == "sample");
    if is_lock(name.as_encoded_bytes()) || is_example {
        return false;
    }
    origin == Origin::Own || !is_of_one_worktree(path)
}

/// What each worktree has of its own inside directories that are common.
fn is_of_one_worktree(path: &Path) -> bool {
    ["info/sparse-checkout", "logs/HEAD"].iter().any(|own| path == Path::new(own))
        || ["refs", "logs/refs"].iter().any(|refs| {
            ["bisect", "rewritten", "worktree"].iter().any(|own| path == Path::new(refs).join(own))
        })
}

/// A lock of some process: that process has no part in the copy.
pub(super) fn is_lock(name: &[u8]) -> bool {
    name.ends_with(b".lock")
}

/// Whether a directory holds the objects whose hashes begin with its name.
pub(super) fn is_fan_out(name: &[u8]) -> bool {
    name.len() == 2 && name.iter().all(u8::is_ascii_hexdigit)
}

/// Whether a path in a directory of objects is taken. What is still being written is not, and
/// `info/alternates` is the snapshot's own. Of an alternate, `outside`, neither are the indexes
/// that say what that directory alone has.
pub(super) fn is_object(path: &Path, outside: bool) -> bool {
    let Some(name) = path.file_name().map(std::ffi::OsStr::as_encoded_bytes) else { return true };
    let unfinished = [&b"tmp_"[..], b".tmp-", b"incoming-"];
    let is_unfinished = unfinished.iter().any(|prefix| name.starts_with(prefix));
    let whole = [&b"info"[..], b"multi-pack-index", b"multi-pack-index.d"];
    let is_of_another = outside && whole.contains(&name);
    let is_ours = path == Path::new(ALTERNATES);
    !(is_lock(name) || is_unfinished || is_of_another || is_ours)
}

/// Where a directory of objects names others, one a line.
pub(super) const ALTERNATES: &str = "info/alternates";

/// The settings of a snapshot: the repository's own, then what makes the copy stand alone, costs
/// nothing in a view, and starts nothing. Later settings win.
///
/// `checkStat` and `trustctime`: a view shows base's owner as the agent, and the change times of
/// base are not those that the index has noted, because links to files change them. Without these
/// settings the first `git status` reads every file.
pub(super) fn private_config(own: &[u8], worktree: Option<&str>) -> Vec<u8> {
    let mut text = own.to_vec();
    text.extend_from_slice(
        b"\n# This agent's own: what is above is the repository's.\n[core]\n\tbare = false\n",
    );
    // Only a repository that says where its worktree is has to be told otherwise.
    if let Some(worktree) = worktree.filter(|_| mentions_worktree(own)) {
        let quoted = worktree.replace('\\', "\\\\").replace('"', "\\\"");
        text.extend_from_slice(format!("\tworktree = \"{quoted}\"\n").as_bytes());
    }
    text.extend_from_slice(
        b"\tcheckStat = minimal\n\ttrustctime = false\n\tfsmonitor = false\n\tuntrackedCache = false\n\
          [gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n",
    );
    text
}

fn mentions_worktree(config: &[u8]) -> bool {
    config.to_ascii_lowercase().windows(8).any(|word| word == b"worktree")
}

/// The value of `core.worktree`, as far as it is written plainly.
pub(super) fn worktree_of(config: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(config);
    let mut section = String::new();
    let mut found = None;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix('[') {
            section = rest.trim_end_matches(']').trim().to_ascii_lowercase();
        } else if section == "core"
            && let Some((key, value)) = line.split_once('=')
            && key.trim().eq_ignore_ascii_case("worktree")
        {
            found = Some(value.trim().trim_matches('"').to_owned());
        }
    }
    found
}

/// The directories that an `info/alternates` names. Quoted ones, which git writes for paths with
/// line breaks, are not understood.
pub(super) fn alternates(text: &[u8]) -> Vec<&[u8]> {
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    lines.filter(|line| !line.is_empty() && !line.starts_with(b"#")).collect()
}

/// Whether a name at the top of a git directory holds work, which a directory that is set aside
/// keeps in its place, and not settings, which may name programs to run.
pub(super) fn is_work(name: &[u8]) -> bool {
    let names = [
        &b"HEAD"[..],
        b"index",
        b"logs",
        b"modules",
        b"objects",
        b"packed-refs",
        b"refs",
        b"reftable",
        b"shallow",
    ];
    names.contains(&name) || name.ends_with(b"_HEAD") || name.starts_with(b"sharedindex.")
}

/// Whether a name at the top is written by mere looking, so that nothing is lost with it.
pub(super) fn is_trace(name: &[u8]) -> bool {
    name == b"index" || name == b"gc.log" || name.starts_with(b"sharedindex.") || is_lock(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linked_worktree_takes_what_is_common_and_only_its_own_head() {
        use Origin::{Common, Own};
        for name in ["objects", "packed-refs", "hooks", "config"] {
            assert_ne!(treatment(name.as_bytes(), Common), Treatment::Skip, "{name}");
        }
        for name in ["HEAD", "index", "ORIG_HEAD", "modules", "worktrees", "MERGE_HEAD"] {
            assert_eq!(treatment(name.as_bytes(), Common), Treatment::Skip, "{name}");
        }
        for name in ["HEAD", "index", "MERGE_HEAD", "modules", "rebase-merge", "whatever"] {
            assert_ne!(treatment(name.as_bytes(), Own), Treatment::Skip, "{name}");
        }
        for name in ["commondir", "index.lock", "agentfs", "fsmonitor--daemon.ipc"] {
            assert_eq!(treatment(name.as_bytes(), Own), Treatment::Skip, "{name}");
        }
        let taken = |path: &str, origin| is_taken(Path::new(path), origin);
        assert!(taken("logs/refs/heads/main", Common) && taken("logs/HEAD", Own));
        assert!(!taken("logs/HEAD", Common) && !taken("refs/bisect", Common));
        assert!(taken("hooks/pre-commit", Common) && !taken("hooks/pre-commit.sample", Common));
        assert!(!taken("refs/heads/x.lock", Own) && taken("refs/heads/bisect", Common));
    }

    #[test]
    fn references_come_before_objects_and_loose_before_packed_ones() {
        use Treatment::{Config, Copy, Modules, Objects, PackedRefs, Refs};
        let mut order = [Objects, PackedRefs, Modules, Refs, Copy, Config];
        order.sort();
        assert_eq!(order, [Copy, Refs, PackedRefs, Config, Modules, Objects]);
    }

    #[test]
    fn settings_of_ours_come_last_and_the_users_stay() {
        let own = "[user]\n\tname = Ada\n[core]\n\tbare = true\n\tfsmonitor = /evil";
        let text = String::from_utf8(private_config(own.as_bytes(), Some(".."))).unwrap();
        assert!(text.starts_with(own));
        assert!(text.rfind("fsmonitor = false") > text.rfind("/evil"));
        assert!(!text.contains("worktree"), "nothing to correct: {text}");
        let own = b"[core]\n\tworkTree = \"../../../s \\\" b\"\n";
        let text = String::from_utf8(private_config(own, Some("/a \"b\\"))).unwrap();
        assert!(text.contains("\tworktree = \"/a \\\"b\\\\\"\n"), "{text}");
        assert_eq!(worktree_of(b"[core]\n\tworktree = ../../../sub\n").unwrap(), "../../../sub");
        assert_eq!(worktree_of(b"[other]\n\tworktree = x\n"), None);
    }

    #[test]
    fn what_is_unfinished_or_about_another_directory_is_no_object() {
        let taken = |path: &str, outside| is_object(Path::new(path), outside);
        for yes in ["ab/cdef", "pack/pack-1.idx", "info/commit-graph", "pack/multi-pack-index"] {
            assert!(taken(yes, false), "{yes}");
        }
        for no in ["ab/tmp_obj_x", "pack/tmp_pack_1", "pack/.tmp-9-pack", "info/alternates"] {
            assert!(!taken(no, false), "{no}");
        }
        assert!(!taken("pack/multi-pack-index", true) && !taken("info", true));
    }

    #[test]
    fn alternates_are_lines() {
        assert_eq!(alternates(b"/a b\n\n# x\n../c\r\n"), [&b"/a b"[..], b"../c"]);
    }
}
