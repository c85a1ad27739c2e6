//! The last step: becoming the command.

use super::seccomp::Confined;
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, signal};
use std::ffi::{CString, NulError, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A command in the form in which the kernel takes it, made before the fork.
#[derive(Debug)]
pub struct Prepared {
    candidates: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
}

/// Prepares `argv` with `env`. Fails for what holds a zero byte, which no real command does.
pub fn prepare(argv: &[OsString], env: &[(OsString, OsString)]) -> Result<Prepared, NulError> {
    let name = argv.first().map_or(OsStr::new(""), OsString::as_os_str);
    let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    let candidates = candidates(name, path.unwrap_or(OsStr::new("/usr/bin:/bin")));
    Ok(Prepared {
        candidates: candidates
            .iter()
            .map(|path| c_string(path.as_os_str()))
            .collect::<Result<_, _>>()?,
        argv: argv.iter().map(|argument| c_string(argument)).collect::<Result<_, _>>()?,
        env: env
            .iter()
            .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect::<Result<_, _>>()?,
    })
}

/// The files that `name` can mean, in the order in which they are tried.
fn candidates(name: &OsStr, path: &OsStr) -> Vec<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return vec![PathBuf::from(name)];
    }
    std::env::split_paths(path)
        .map(
            |directory| {
                if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory }
            },
        )
        .map(|directory| directory.join(Path::new(name)))
        .collect()
}

fn c_string(text: &OsStr) -> Result<CString, NulError> {
    CString::new(text.as_bytes())
}

/// Becomes the command; returns only if no file could be executed, with the reason. Everything
/// but the standard streams is closed by then.
pub fn become_command(command: &Prepared, _confined: &Confined) -> Errno {
    // Rust ignores SIGPIPE in its own programs; ours must not inherit that, nor our mask.
    // SAFETY: the default action is no handler of ours that could run in a bad moment.
    let reset = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    let unmask = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    if let Err(errno) = reset.map(drop).and(unmask) {
        return errno;
    }
    // SAFETY: this call takes numbers alone, and descriptors are only marked, not closed.
    let result = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    if result != 0 {
        return Errno::last();
    }
    let mut reason = Errno::ENOENT;
    for file in &command.candidates {
        let Err(errno) = nix::unistd::execve(file, &command.argv, &command.env);
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => {}
            // As a shell: go on, but remember that there was a file that can't be executed.
            Errno::EACCES => reason = Errno::EACCES,
            other => return other,
        }
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_and_a_path_is_not() {
        let found = |name: &str| candidates(OsStr::new(name), OsStr::new("/a:/b/c:"));
        assert_eq!(found("x"), [Path::new("/a/x"), Path::new("/b/c/x"), Path::new("./x")]);
        assert_eq!(found("./x"), [Path::new("./x")]);
        assert_eq!(found("/bin/x"), [Path::new("/bin/x")]);
    }

    #[test]
    fn a_zero_byte_is_refused() {
        assert!(prepare(&["a\0b".into()], &[]).is_err());
        assert!(prepare(&["a".into()], &[("X".into(), "\0".into())]).is_err());
    }
}
