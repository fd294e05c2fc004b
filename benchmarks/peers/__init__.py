"""The job of the benchmarks in other systems. These modules run in environments of their own and import packages that
the project does not have, so type checkers leave them out."""
