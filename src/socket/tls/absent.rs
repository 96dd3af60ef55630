//! Stands in for TLS where it is not built in: a type without values, so that no connection has one
//! and nothing of it is compiled.

pub(crate) mod channel {
    use std::io::{self, IoSlice};

    use crate::socket::position::{Acknowledged, Wire};
    use crate::socket::stream::ReadResult;

    /// See the module of the same name that is built with the feature `tls`.
    #[derive(Debug)]
    pub(crate) enum Channel {}

    impl Channel {
        pub(crate) fn read(
            &self,
            _: impl FnMut(&mut [u8]) -> io::Result<ReadResult>,
            _: &mut [u8],
            _: &mut usize,
        ) -> io::Result<ReadResult> {
            match *self {}
        }

        pub(crate) fn maybe_readable(&self) -> bool {
            match *self {}
        }

        pub(crate) fn write(
            &self,
            _: impl FnMut(&[u8]) -> io::Result<usize>,
            _: impl Fn() -> bool,
            _: &[IoSlice<'_>],
        ) -> io::Result<usize> {
            match *self {}
        }

        pub(crate) fn flush(
            &self,
            _: impl FnMut(&[u8]) -> io::Result<usize>,
            _: impl FnOnce() -> bool,
        ) -> io::Result<()> {
            match *self {}
        }

        pub(crate) fn finish(
            &self,
            _: impl FnMut(&[u8]) -> io::Result<usize>,
            _: impl FnOnce() -> bool,
        ) -> io::Result<()> {
            match *self {}
        }

        pub(crate) fn has_pending(&self) -> bool {
            match *self {}
        }

        pub(crate) fn unacknowledged(&self, _: impl FnOnce() -> u64) -> u64 {
            match *self {}
        }

        pub(crate) fn acknowledged(&self, _: impl FnOnce() -> u64) -> Acknowledged {
            match *self {}
        }

        pub(crate) fn end(&self) -> Wire {
            match *self {}
        }
    }
}
