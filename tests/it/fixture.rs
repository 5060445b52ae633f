//! Files and caches that several test modules share.

#![allow(dead_code, reason = "some helpers are for tests of one platform only")]

pub(crate) mod opened;
pub(crate) mod seeded;
pub(crate) mod three_windows;
