package fsm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

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

	kindPutOverride     = 68 // PutOverride
	kindDeleteOverride  = 69 // DeleteOverride
	kindExpireOverrides = 70 // ExpireOverrides
	kindSetEnforcement  = 71 // SetEnforcement
)

// CatalogCommand is a change of the catalog: exactly one of its fields is set.
type CatalogCommand struct {
	Init         *CatalogInit  `json:"init,omitempty"`
	PutPolicy    *PutPolicy    `json:"put_policy,omitempty"`
	DeletePolicy *DeletePolicy `json:"delete_policy,omitempty"`
	RemoveMember *RemoveMember `json:"remove_member,omitempty"`

	PutOverride     *PutOverride     `json:"put_override,omitempty"`
	DeleteOverride  *DeleteOverride  `json:"delete_override,omitempty"`
	ExpireOverrides *ExpireOverrides `json:"expire_overrides,omitempty"`
	SetEnforcement  *SetEnforcement  `json:"set_enforcement,omitempty"`
}

// CatalogInit is the first command of a cluster. It has an effect only while
// the catalog has no slot map, so it may be proposed more than once.
type CatalogInit struct {
	ClusterID string      `json:"cluster_id"`
	SlotMap   api.SlotMap `json:"slot_map"`
}

// PutPolicy creates or replaces a policy.
type PutPolicy struct {
	Policy    api.Policy `json:"policy"`               // normalized, with its ZoneRules; its revision is ignored
	IfMatch   *uint64    `json:"if_match,omitempty"`   // only if the policy exists at this revision
	AnyMatch  bool       `json:"any_match,omitempty"`  // only if the policy exists
	NoneMatch bool       `json:"none_match,omitempty"` // only if the policy does not exist

	Note
	RevertedTo uint64 `json:"reverted_to,omitempty"` // the policy is the document of this revision; 0 is none
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

// PutOverride adds an override to a policy, or replaces the one of the same key.
type PutOverride struct {
	Policy   string       `json:"name"`
	Override api.Override `json:"override"`            // normalized, with nothing of what the server sets
	IfMatch  *uint64      `json:"if_match,omitempty"`  // only if the policy exists at this revision
	AnyMatch bool         `json:"any_match,omitempty"` // only if the policy exists
	Note                  // its reason is that of the override
}

// DeleteOverride removes an override from a policy.
type DeleteOverride struct {
	Policy   string  `json:"name"`
	Key      string  `json:"key"`
	IfMatch  *uint64 `json:"if_match,omitempty"`  // only if the policy exists at this revision
	AnyMatch bool    `json:"any_match,omitempty"` // only if the policy exists
	Note
}

// ExpireOverrides removes every override whose time is over by the entry's stamp.
type ExpireOverrides struct{}

// SetEnforcement sets the switch of the whole cluster.
type SetEnforcement struct {
	Enforcement string `json:"enforcement"`
	Note
}

// Enforcements are the values of the cluster's switch.
var Enforcements = []string{api.EnforcementEnforce, api.EnforcementShadow, api.EnforcementOff}

func errEnforcement(value string) error {
	return api.NewProblem(api.InvalidRequest, "enforcement: %.40q is not one of %s", value, strings.Join(Enforcements, ", "))
}

// EncodeCatalog returns the entry of a command, stamped with cluster time in
// nanoseconds. It refuses, with an error, what would halt the machine.
func EncodeCatalog(stamp uint64, cmd CatalogCommand) ([]byte, error) {
	n := 0
	v := reflect.ValueOf(cmd)
	for i := range v.NumField() {
		if !v.Field(i).IsNil() {
			n++
		}
	}
	if n != 1 {
		return nil, fmt.Errorf("fsm: a catalog command needs exactly one of its fields; it has %d", n)
	}
	kind, body, err := cmd.checked()
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	e := append(appendHeader(make([]byte, 0, entryHeaderSize+len(b)), kind), b...)
	sealHeader(e, stamp)
	return e, nil
}

// checked returns the kind and the body of the command, or why it would halt the
// machine.
func (cmd *CatalogCommand) checked() (kind uint8, body any, err error) {
	switch {
	case cmd.Init != nil:
		_, err = checkInit(cmd.Init)
		return kindCatalogInit, cmd.Init, err
	case cmd.PutPolicy != nil:
		put := *cmd.PutPolicy
		put.Policy.Revision = 0
		return kindPutPolicy, &put, errors.Join(checkNormalized(&put.Policy), put.check())
	case cmd.DeletePolicy != nil:
		return kindDeletePolicy, cmd.DeletePolicy, policy.CheckName(cmd.DeletePolicy.Name)
	case cmd.RemoveMember != nil:
		return kindRemoveMember, cmd.RemoveMember, api.CheckNodeID(cmd.RemoveMember.ID)
	case cmd.PutOverride != nil:
		c := cmd.PutOverride
		return kindPutOverride, c, errors.Join(policy.CheckName(c.Policy), checkOverride(&c.Override), c.check())
	case cmd.DeleteOverride != nil:
		c := cmd.DeleteOverride
		return kindDeleteOverride, c, errors.Join(policy.CheckName(c.Policy), api.CheckKey(c.Key), c.check())
	case cmd.ExpireOverrides != nil:
		return kindExpireOverrides, cmd.ExpireOverrides, nil
	default:
		c := cmd.SetEnforcement
		if !slices.Contains(Enforcements, c.Enforcement) {
			return 0, nil, errEnforcement(c.Enforcement)
		}
		return kindSetEnforcement, c, c.check()
	}
}

// checkOverride refuses an override that [policy.ParseOverride] would not have
// returned.
func checkOverride(o *api.Override) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	parsed, errs := policy.ParseOverride(b)
	if len(errs) > 0 {
		return policy.Problem(errs)
	}
	if !reflect.DeepEqual(parsed, *o) {
		return api.NewProblem(api.InvalidPolicy, "the override of %.140q has not been normalized", o.Key)
	}
	return nil
}

// checkNormalized refuses a policy that [policy.Parse] would not have returned.
func checkNormalized(p *api.Policy) error {
	if err := api.CheckZone(p.ZoneRules); err != nil {
		return api.NewProblem(api.InvalidPolicy, "%v", err)
	}
	plain := *p
	plain.ZoneRules = nil
	b, err := json.Marshal(plain)
	if err != nil {
		return err
	}
	parsed, errs := policy.Parse(b, p.Name)
	if len(errs) > 0 {
		return policy.Problem(errs)
	}
	if !reflect.DeepEqual(parsed, plain) {
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
		into = made(&cmd.Init)
	case kindPutPolicy:
		into = made(&cmd.PutPolicy)
	case kindDeletePolicy:
		into = made(&cmd.DeletePolicy)
	case kindRemoveMember:
		into = made(&cmd.RemoveMember)
	case kindPutOverride:
		into = made(&cmd.PutOverride)
	case kindDeleteOverride:
		into = made(&cmd.DeleteOverride)
	case kindExpireOverrides:
		into = made(&cmd.ExpireOverrides)
	case kindSetEnforcement:
		into = made(&cmd.SetEnforcement)
	default:
		return 0, cmd, fmt.Errorf("fsm: unknown catalog entry kind %d: it was written by a newer rlstore", kind)
	}
	if err := strictJSON(body, into); err != nil {
		return 0, cmd, fmt.Errorf("fsm: the catalog entry is malformed: %w", err)
	}
	return stamp, cmd, nil
}

// made sets a field of a command, and returns what to decode into.
func made[T any](field **T) *T {
	*field = new(T)
	return *field
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
