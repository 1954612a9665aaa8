//! The documents: their rules, links, examples, and tables that agree with the code.

mod examples;
mod links;
mod markdown;
mod security;
mod style;
mod tables;
