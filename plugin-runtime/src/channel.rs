//! Which release of several is meant, by the channel that its publisher states.

use orchestrator_manifest::Channel;

/// How far a release is from what was asked for; 0 is the nearest. Who asks for
/// nothing means stable. Beta is for whoever asks for it, who takes a stable release
/// that is newer just as well. What is deprecated is better than nothing.
pub(crate) fn distance(found: Channel, asked: Option<Channel>) -> u8 {
    use Channel::{Beta, Deprecated, Stable};
    match (asked.unwrap_or_default(), found) {
        (Stable, Stable) | (Beta, Stable | Beta) | (Deprecated, Deprecated) => 0,
        (Stable | Beta, Deprecated) | (Deprecated, Stable) => 1,
        (Stable | Deprecated, Beta) => 2,
    }
}
