//! File systems that a world's directories are put on: of other kinds, small ones, faulty ones.

use crate::process::Done;
use crate::world::World;
use std::path::Path;

/// Puts a new file system at `$3` with what is in that directory now, and in its owner's name.
const MOUNT: &str = r#"
kind=$1 mib=$2 at=$3 place=$4
mkdir "$place"
cp -a "$at" "$place/kept"
case $kind in
    tmpfs) mount -t tmpfs -o "size=${mib}m" agentfs-e2e "$at" ;;
    overlay)
        mkdir "$place/upper" "$place/work"
        chown --reference="$at" "$place/upper"
        dirs=lowerdir=$place/kept,upperdir=$place/upper,workdir=$place/work
        mount -t overlay -o "$dirs" agentfs-e2e "$at"
        exit ;;
    bindfs) bindfs -o allow_other,nonempty "$place/kept" "$at"; exit ;;
    *)
        truncate -s "${mib}M" "$place/image"
        case $kind in
            ext4) mkfs.ext4 -q -F -m 0 "$place/image" ;;
            xfs) mkfs.xfs -q -f -m reflink=1 "$place/image" ;;
            btrfs) mkfs.btrfs -q -f "$place/image" ;;
        esac
        mount -o loop "$place/image" "$at" ;;
esac
cp -a "$place/kept/." "$at"
"#;

impl World {
    /// Puts `dir`, with what is in it, on a new file system of this kind, of `mib` MiB where it
    /// has a size: `tmpfs`, `overlay`, `bindfs`, `ext4`, `xfs` or `btrfs`.
    pub fn put_on(&self, kind: &str, mib: u32, dir: &Path) {
        let place = self.next_file().with_extension("storage");
        let script = ["sh", "-euc", MOUNT, "mount", kind, &mib.to_string()];
        self.cmd(script).arg(dir).arg(&place).dir("/").as_root().ok();
    }

    /// A shell script of root's in this world.
    #[track_caller]
    pub fn root_sh(&self, script: &str) -> Done {
        self.sh(script).as_root().ok()
    }
}
