//! Who runs this command, for the record.

/// The user's name, where the environment has one, and number.
pub(crate) fn whoami() -> String {
    let uid = rustix::process::getuid().as_raw();
    let name = std::env::var("LOGNAME").or_else(|_| std::env::var("USER"));
    match name {
        Ok(name) if !name.is_empty() => format!("{name} (uid {uid})"),
        _ => format!("uid {uid}"),
    }
}
