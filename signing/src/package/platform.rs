//! The one platform that a release runs on, where its publisher named one.

use std::env::consts;

use super::{Package, VerifyError};

impl Package {
    /// Whether this host is of the platform that the release is for. Of its name, the
    /// processor and the operating system are compared: programs of one C library may
    /// well run beside another.
    ///
    /// # Errors
    ///
    /// [`VerifyError::OtherPlatform`].
    pub fn check_platform(&self) -> Result<(), VerifyError> {
        let platform = self.release().and_then(|it| it.triple.as_deref());
        match platform.filter(|it| !is_here(it, consts::ARCH, consts::OS)) {
            None => Ok(()),
            Some(platform) => Err(VerifyError::OtherPlatform {
                plugin: self.manifest().id.to_string(),
                platform: platform.escape_debug().to_string(),
            }),
        }
    }
}

/// Whether a target of the compiler is for a host whose processor and operating system
/// the standard library calls so.
fn is_here(platform: &str, arch: &str, os: &str) -> bool {
    let mut parts = platform.split('-');
    let processor = parts.next().unwrap_or_default();
    let is_processor = match arch {
        "x86" => processor.starts_with('i') && processor.ends_with("86"),
        // `armv7`, `riscv64gc`.
        "arm" | "riscv64" => processor.starts_with(arch),
        _ => processor == arch,
    };
    let system = match os {
        "macos" => "darwin",
        os => os,
    };
    is_processor && parts.any(|part| part == system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_and_system_decide() {
        for (platform, arch, os) in [
            ("x86_64-unknown-linux-gnu", "x86_64", "linux"),
            ("x86_64-unknown-linux-musl", "x86_64", "linux"),
            ("aarch64-apple-darwin", "aarch64", "macos"),
            ("armv7-unknown-linux-gnueabihf", "arm", "linux"),
            ("riscv64gc-unknown-linux-gnu", "riscv64", "linux"),
            ("i686-unknown-linux-gnu", "x86", "linux"),
        ] {
            assert!(is_here(platform, arch, os), "{platform}");
            for (arch, os) in [("x86_64", "freebsd"), ("s390x", "linux"), ("mips", "linux")] {
                assert!(!is_here(platform, arch, os), "{platform} on {arch} {os}");
            }
        }
        assert!(!is_here("x86_64-unknown-linux-gnu", "x86", "linux"));
        assert!(!is_here("aarch64-unknown-linux-gnu", "arm", "linux"));
        assert!(!is_here("linux", "x86_64", "linux"));
    }
}
