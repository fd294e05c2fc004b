-- Continuations that were inserted within a transaction of the user's. That must not lock the parent: whoever runs it would
-- wait for the user's commit to report its end. So the parent may have ended by the commit without a look at the child;
-- upkeep looks again at each that is named here, once, under the usual locks.
CREATE TABLE {schema}.unsettled (
    app integer NOT NULL,
    child text COLLATE "C" NOT NULL,
    parent text COLLATE "C" NOT NULL,
    PRIMARY KEY (app, child)
);
