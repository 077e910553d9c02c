//! The deploy body: parsed and checked completely.
