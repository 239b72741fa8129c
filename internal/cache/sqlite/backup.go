package sqlite

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// Backup writes what the database in file holds at one moment to the new file to, durably, while others may write to the database.
// It is itself a database, which Open takes. Errors are of class fleet.Local and code fleet.CodeState.
func Backup(ctx context.Context, file, to string) error {
	if err := backup(ctx, file, to); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "the index %s cannot be copied to %s", file, to).WithCause(err).
			WithHint("check that both can be read and written, and that there is space")
	}
	return nil
}

func backup(ctx context.Context, file, to string) (err error) {
	if file, err = filepath.Abs(file); err != nil {
		return err
	}
	if _, err := os.Stat(file); err != nil {
		return err // else an empty one would be made
	}
	db, err := connect(file, 1, "query_only(0)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	// In a folder of its own, which nobody else can enter, until it is whole: there are private keys in it.
	dir, err := os.MkdirTemp(filepath.Dir(to), ".backup-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	copied := filepath.Join(dir, "index")
	if _, err := db.ExecContext(ctx, `VACUUM INTO ?`, copied); err != nil {
		return err
	}
	if err := os.Chmod(copied, 0o600); err != nil {
		return err
	}
	return durable.Place(copied, to)
}
