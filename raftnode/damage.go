package raftnode

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// ErrDamaged is in the chain of every error about content of a [Disk] that is not
// as it was written. A disk that can't be read, or has no room, is none of these:
// what it holds may be whole.
var ErrDamaged = errors.New("damaged")

// asDamage marks err as [ErrDamaged], unless it only says that something can't be
// read now. A file that is missing where one belongs can't come back.
func asDamage(err error) error {
	var path *fs.PathError
	var errno syscall.Errno
	switch {
	case err == nil, errors.Is(err, ErrDamaged):
		return err
	case !errors.Is(err, os.ErrNotExist) && (errors.As(err, &path) || errors.As(err, &errno)):
		return err
	}
	return damaged{err}
}

// damaged is an error with ErrDamaged in its chain, and the same text.
type damaged struct{ error }

// Unwrap returns both.
func (d damaged) Unwrap() []error { return []error{d.error, ErrDamaged} }
