//! Moments and lengths of time, as people say them.

use super::Page;
use agentfs_core::Timestamp;
use std::time::Duration;

const DAY: u64 = 86_400;

/// "250ms", "12s", "3m05s", "2h10m" as in the daemon's own sentences, and "4d1h".
pub fn span(length: Duration) -> String {
    match length.as_secs() {
        seconds @ DAY.. => format!("{}d{}h", seconds / DAY, seconds % DAY / 3_600),
        _ => agentfs_core::explain::span(length),
    }
}

/// "12s ago", or "now".
pub fn ago(page: &Page, then: Timestamp) -> String {
    match page.now.since(then) {
        length if length.as_secs() == 0 => "now".to_owned(),
        length => format!("{} ago", span(length)),
    }
}

/// "in 12s", or "now" if that has passed.
pub fn until(page: &Page, then: Timestamp) -> String {
    match then.since(page.now) {
        length if length.as_secs() == 0 => "now".to_owned(),
        length => format!("in {}", span(length)),
    }
}

/// "2026-11-20 21:30:02", where the reader is.
pub fn local(page: &Page, then: Timestamp) -> String {
    let millis = i64::try_from(then.0).unwrap_or(i64::MAX);
    shown(page, jiff::Timestamp::from_millisecond(millis).ok())
}

/// The same for nanoseconds since the epoch, as file systems count.
pub fn local_nanos(page: &Page, nanos: i64) -> String {
    shown(page, jiff::Timestamp::from_nanosecond(i128::from(nanos)).ok())
}

fn shown(page: &Page, moment: Option<jiff::Timestamp>) -> String {
    let zoned = moment.map(|moment| moment.to_zoned(page.zone.clone()));
    zoned.map_or_else(
        || "at no known time".to_owned(),
        |zoned| zoned.strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::{page, seconds};
    use super::*;
    use jiff::tz::TimeZone;

    #[test]
    fn spans_are_told_as_the_daemon_tells_them_and_days_as_days() {
        for (given, text) in [(12, "12s"), (185, "3m05s"), (86_399, "23h59m"), (349_200, "4d1h")] {
            assert_eq!(span(Duration::from_secs(given)), text);
        }
    }

    #[test]
    fn moments_are_told_from_the_page_s_now() {
        assert_eq!(ago(&page(), seconds(988)), "12s ago");
        assert_eq!(ago(&page(), Timestamp(999_500)), "now");
        assert_eq!(ago(&page(), seconds(2_000)), "now", "another machine's clock may be ahead");
        assert_eq!(until(&page(), seconds(1_090)), "in 1m30s");
        assert_eq!(until(&page(), seconds(1)), "now");
    }

    #[test]
    fn clock_times_are_local() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let here = Page { zone, ..page() };
        assert_eq!(local(&here, seconds(1_000)), "1970-01-01 02:16:40");
        assert_eq!(local_nanos(&here, 1_000_000_000_000), "1970-01-01 02:16:40");
        assert_eq!(local(&here, Timestamp(u64::MAX)), "at no known time");
    }
}
