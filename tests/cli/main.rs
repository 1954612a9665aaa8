//! The commands as people run them: the real program, on free ports of this machine.

mod demo;
mod egress;
mod keys;
mod packaging;
mod pair;
mod publish;
mod serve;
mod socket_files;
mod strict;
mod subscribe;
mod support;
mod tokens;
