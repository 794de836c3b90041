package fsm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// The kinds of the catalog's entries. Each begins with the header of header.go;
// its body is the JSON of the struct named here. These entries are rare, so
// they may be as readable as this.
const (
	kindCatalogInit  = 64 // CatalogInit
	kindPutPolicy    = 65 // PutPolicy
	kindDeletePolicy = 66 // DeletePolicy
	kindRemoveMember = 67 // RemoveMember
)

// CatalogCommand is a change of the catalog: exactly one of its fields is set.
type CatalogCommand struct {
	Init         *CatalogInit  `json:"init,omitempty"`
	PutPolicy    *PutPolicy    `json:"put_policy,omitempty"`
	DeletePolicy *DeletePolicy `json:"delete_policy,omitempty"`
	RemoveMember *RemoveMember `json:"remove_member,omitempty"`
}

// CatalogInit is the first command of a cluster. It has an effect only while
// the catalog has no slot map, so it may be proposed more than once.
type CatalogInit struct {
	ClusterID string      `json:"cluster_id"`
	SlotMap   api.SlotMap `json:"slot_map"`
}

// PutPolicy creates or replaces a policy.
type PutPolicy struct {
	Policy    api.Policy `json:"policy"`               // normalized; its revision is ignored
	IfMatch   *uint64    `json:"if_match,omitempty"`   // only if the policy exists at this revision
	AnyMatch  bool       `json:"any_match,omitempty"`  // only if the policy exists
	NoneMatch bool       `json:"none_match,omitempty"` // only if the policy does not exist
}

// DeletePolicy deletes a policy.
type DeletePolicy struct {
	Name     string  `json:"name"`
	IfMatch  *uint64 `json:"if_match,omitempty"`  // only if the policy exists at this revision
	AnyMatch bool    `json:"any_match,omitempty"` // only if the policy exists
}

// RemoveMember bars a node from the cluster for good: its id may not be a
// member's again. It is no change of any group's members; that comes after.
type RemoveMember struct {
	ID string `json:"id"`
}

// EncodeCatalog returns the entry of a command, stamped with cluster time in
// nanoseconds. It refuses, with an error, what would halt the machine.
func EncodeCatalog(stamp uint64, cmd CatalogCommand) ([]byte, error) {
	var kind uint8
	var body any
	n := 0
	if c := cmd.Init; c != nil {
		if _, err := checkInit(c); err != nil {
			return nil, err
		}
		kind, body, n = kindCatalogInit, c, n+1
	}
	if c := cmd.PutPolicy; c != nil {
		put := *c
		put.Policy.Revision = 0
		if err := checkNormalized(&put.Policy); err != nil {
			return nil, err
		}
		kind, body, n = kindPutPolicy, &put, n+1
	}
	if c := cmd.DeletePolicy; c != nil {
		if err := policy.CheckName(c.Name); err != nil {
			return nil, err
		}
		kind, body, n = kindDeletePolicy, c, n+1
	}
	if c := cmd.RemoveMember; c != nil {
		if err := api.CheckNodeID(c.ID); err != nil {
			return nil, err
		}
		kind, body, n = kindRemoveMember, c, n+1
	}
	if n != 1 {
		return nil, fmt.Errorf("fsm: a catalog command needs exactly one of its fields; it has %d", n)
	}
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	e := append(appendHeader(make([]byte, 0, entryHeaderSize+len(b)), kind), b...)
	sealHeader(e, stamp)
	return e, nil
}

// checkNormalized refuses a policy that [policy.Parse] would not have returned.
func checkNormalized(p *api.Policy) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	parsed, errs := policy.Parse(b, p.Name)
	if len(errs) > 0 {
		return policy.Problem(errs)
	}
	if !reflect.DeepEqual(parsed, *p) {
		return api.NewProblem(api.InvalidPolicy, "the policy %s has not been normalized", p.Name)
	}
	return nil
}

// decodeCatalog is the inverse of [EncodeCatalog]; exactly one field of cmd is
// set if err is nil. It checks the form, and not yet what is in it.
func decodeCatalog(entry []byte) (stamp uint64, cmd CatalogCommand, err error) {
	kind, stamp, body, err := openHeader(entry)
	if err != nil {
		return 0, cmd, err
	}
	var into any
	switch kind {
	case kindCatalogInit:
		cmd.Init = new(CatalogInit)
		into = cmd.Init
	case kindPutPolicy:
		cmd.PutPolicy = new(PutPolicy)
		into = cmd.PutPolicy
	case kindDeletePolicy:
		cmd.DeletePolicy = new(DeletePolicy)
		into = cmd.DeletePolicy
	case kindRemoveMember:
		cmd.RemoveMember = new(RemoveMember)
		into = cmd.RemoveMember
	default:
		return 0, cmd, fmt.Errorf("fsm: unknown catalog entry kind %d: it was written by a newer rlstore", kind)
	}
	if err := strictJSON(body, into); err != nil {
		return 0, cmd, fmt.Errorf("fsm: the catalog entry is malformed: %w", err)
	}
	return stamp, cmd, nil
}

// strictJSON decodes all of b, and refuses fields that it does not know: to
// ignore one would be to diverge from a newer replica.
func strictJSON(b []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows its end")
	}
	return nil
}
