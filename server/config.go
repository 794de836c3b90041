package server

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/raftnode"
)

// Config is what one node is told. The zero value is a node that listens on
// the loopback interface, on the ports of the first node of a cluster, and
// waits to be found by others; [Config.WithDefaults] says what every other
// zero means.
type Config struct {
	// NodeID is the stable identity of the node: 1 to 64 of A-Z a-z 0-9 . _ -
	// Empty: made at the first start and kept in DataDir.
	NodeID string
	// DataDir holds everything the node must not lose, and is its alone.
	// Empty: ./rlstore-data, so that a first try needs no rights and leaves
	// nothing outside the working folder.
	DataDir string

	// HTTPAddr is the host:port that the API listens on; port 0 takes a free
	// one. Empty: 127.0.0.1:8101, so that nobody serves a network by accident.
	HTTPAddr string
	// HTTPAdvertise is the base URL, http://host:port, under which clients and
	// nodes reach the API; a bare host:port is accepted. Empty: HTTPAddr, and
	// where that has port 0 it stays empty until the listener knows its port.
	HTTPAdvertise string
	// RaftAddr is the host:port that all traffic between nodes listens on;
	// port 0 takes a free one. Empty: 127.0.0.1:9101.
	RaftAddr string
	// RaftAdvertise is the host:port under which other nodes reach this one.
	// Empty: RaftAddr, as with HTTPAdvertise.
	RaftAdvertise string

	// BootstrapExpect starts a new cluster once so many nodes see each other,
	// every one of them told the same number. 0 never starts one: the node
	// resumes what is in DataDir, or joins.
	BootstrapExpect int
	// Join lists raft addresses of any nodes; the node's own may be among
	// them, so that every node can be started with the same list.
	Join []string
	// Shards is the number of bucket shards, 1 to MaxShards, of a cluster that
	// this node helps to start; an existing cluster keeps its own. 0: 6, which
	// spreads evenly over one, two or three nodes.
	Shards int

	// AllowInlineLimits lets a take bring its own limits instead of naming a
	// policy. It is off unless set, because it lets every caller choose.
	AllowInlineLimits bool

	// LogStore is how the entries of the logs are kept: bolt, all shards in one
	// file with one commit for what waits, or wal, each shard in files of its own
	// with one fsync an append. A data folder keeps what it was begun with. Empty:
	// bolt.
	LogStore string

	// LogLevel is debug, info, warn or error. Empty: info.
	LogLevel string
	// LogFormat is text or json. Empty: text.
	LogFormat string
	// Logger, where set, is used instead of one made of LogLevel and
	// LogFormat that writes to standard error.
	Logger *slog.Logger

	// origins says where Load found each setting, by name.
	origins map[string]origin
}

// MaxShards bounds [Config.Shards]. Each shard is a Raft group on every node,
// with timers and a log of its own, so more of them cost more than they spread.
const MaxShards = 64

// WithDefaults returns c with every zero that means something else replaced by
// what it means.
func (c Config) WithDefaults() Config {
	c.DataDir = cmp.Or(c.DataDir, "./rlstore-data")
	c.HTTPAddr = cmp.Or(c.HTTPAddr, "127.0.0.1:8101")
	c.RaftAddr = cmp.Or(c.RaftAddr, "127.0.0.1:9101")
	c.Shards = cmp.Or(c.Shards, 6)
	c.LogStore = cmp.Or(c.LogStore, raftnode.LogStoreBolt)
	c.LogLevel = cmp.Or(c.LogLevel, "info")
	c.LogFormat = cmp.Or(c.LogFormat, "text")
	return c.derive()
}

// derive fills in what follows from other fields.
func (c Config) derive() Config {
	if c.HTTPAdvertise == "" && !freePort(c.HTTPAddr) {
		c.HTTPAdvertise = c.HTTPAddr
	}
	if c.HTTPAdvertise != "" && !strings.Contains(c.HTTPAdvertise, "://") {
		c.HTTPAdvertise = "http://" + c.HTTPAdvertise
	}
	c.HTTPAdvertise = strings.TrimSuffix(c.HTTPAdvertise, "/")
	if c.RaftAdvertise == "" && !freePort(c.RaftAddr) {
		c.RaftAdvertise = c.RaftAddr
	}
	if c.Logger == nil {
		c.Logger = c.NewLogger(os.Stderr)
	}
	return c
}

// NewLogger returns a logger of the configured level and format. A level or
// format that [Config.Validate] refuses counts as the default.
func (c Config) NewLogger(w io.Writer) *slog.Logger {
	var level slog.Level // the zero level is info
	_ = level.UnmarshalText([]byte(c.LogLevel))
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// Validate says what is wrong with a configuration that has its defaults, one
// sentence a fault, all faults at once, or returns nil.
func (c Config) Validate() error {
	var errs []error
	bad := func(name, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %w", c.origins[name].label(name), fmt.Errorf(format, args...)))
	}
	check := func(name string, err error) {
		if err != nil {
			bad(name, "%w", err)
		}
	}

	if c.NodeID != "" {
		check("node-id", checkNodeID(c.NodeID))
	}
	if c.DataDir == "" {
		bad("data-dir", "a node needs a folder to keep its state in")
	}

	errHTTP, errRaft := checkAddr(c.HTTPAddr, httpExample), checkAddr(c.RaftAddr, raftExample)
	check("http-addr", errHTTP)
	check("raft-addr", errRaft)
	if errHTTP == nil && errRaft == nil && clash(c.HTTPAddr, c.RaftAddr) {
		bad("raft-addr", "%s is taken by http-addr, %s: the API and the traffic between nodes need a port each", c.RaftAddr, c.HTTPAddr)
	}
	// A faulty address was reported above; what follows from it adds nothing.
	if errHTTP == nil && c.HTTPAdvertise != "" {
		check("http-advertise", checkAdvertise(c.HTTPAdvertise, c.HTTPAddr, "--http-advertise"))
	}
	if errRaft == nil && c.RaftAdvertise != "" {
		check("raft-advertise", checkReachable(c.RaftAdvertise, c.RaftAddr, "--raft-advertise", raftExample))
	}

	if c.BootstrapExpect < 0 {
		bad("bootstrap-expect", "%d is negative; it is the number of nodes that start a cluster, or 0", c.BootstrapExpect)
	}
	for _, a := range c.Join {
		check("join", checkReachable(a, "", "", raftExample))
	}
	if c.Shards < 1 || c.Shards > MaxShards {
		bad("shards", "%d is out of range; it needs to be 1 to %d", c.Shards, MaxShards)
	}
	switch c.LogStore {
	case raftnode.LogStoreBolt, raftnode.LogStoreWAL:
	default:
		bad("log-store", "%q is not bolt or wal", c.LogStore)
	}
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
	default:
		bad("log-level", "%q is not debug, info, warn or error", c.LogLevel)
	}
	switch c.LogFormat {
	case "text", "json":
	default:
		bad("log-format", "%q is not text or json", c.LogFormat)
	}
	return errors.Join(errs...)
}

// checkNodeID is api.CheckNodeID as one of the faults of a configuration.
func checkNodeID(id string) error {
	if err := api.CheckNodeID(id); err != nil {
		return errors.New(api.AsProblem(err).Detail)
	}
	return nil
}

// What errors about an address show instead.
const (
	httpExample = "127.0.0.1:8101"
	raftExample = "127.0.0.1:9101"
)

// checkAddr refuses what is not a host (perhaps empty: all interfaces) and a
// port in digits.
func checkAddr(addr, example string) error {
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || strings.ContainsAny(host, " /@?#") {
		return fmt.Errorf("%q is not host:port, such as %s", addr, example)
	}
	return nil
}

// checkReachable refuses an address that others cannot dial. own is the
// address it may have been taken from, and flag what to set instead.
func checkReachable(addr, own, flag, example string) error {
	if err := checkAddr(addr, example); err != nil {
		return err
	}
	host, _, _ := net.SplitHostPort(addr)
	switch {
	case unspecified(host) && addr == own:
		return fmt.Errorf("others cannot reach this node at %q, which is every address it has: set %s to one of them", addr, flag)
	case unspecified(host):
		return fmt.Errorf("%q is no address that anyone can reach: name a host", addr)
	case freePort(addr):
		return fmt.Errorf("%q has port 0: name the port", addr)
	}
	return nil
}

// checkAdvertise is checkReachable for a base URL.
func checkAdvertise(base, own, flag string) error {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%q is not host:port or a URL such as http://10.0.0.1:8101", base)
	}
	if *u != (url.URL{Scheme: u.Scheme, Host: u.Host}) {
		return fmt.Errorf("%q has more than a scheme, a host and a port", base)
	}
	addr := u.Host
	if u.Port() == "" { // then it is the scheme's own
		addr = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	return checkReachable(addr, own, flag, httpExample)
}

// unspecified reports whether host means every interface.
func unspecified(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.Unmap().IsUnspecified()
}

// freePort reports whether addr has port 0.
func freePort(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	n, perr := strconv.ParseUint(port, 10, 16)
	return err == nil && perr == nil && n == 0
}

// clash reports whether two addresses to listen on cannot both be had.
func clash(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	return portA == portB && !freePort(a) && (hostA == hostB || unspecified(hostA) || unspecified(hostB))
}
