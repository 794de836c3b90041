package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// namespaces is a network of namespaces: one for each slot, and one that holds
// the bridge between them. Cuts are made of packets: connections stay open and
// go silent, as they do when a cable is pulled.
//
// All names begin with nsPrefix and the runner's process id, so that a later
// run finds and removes what a killed one left.
type namespaces struct {
	prefix string
	slots  int
	inside int // file of the callers' namespace
}

const (
	nsPrefix = "rlfaults-"
	subnet   = "10.87.0."
	// operator is the runner's own address in the callers' namespace, which no
	// fault cuts.
	operator = subnet + "250"
	// nowhere is a hardware address that nobody has: what is sent to it is lost.
	nowhere = "02:00:00:00:00:99"
)

var runs atomic.Int64 // of this process, to tell their namespaces apart

// newNamespaces makes the network of the callers and nodes 1 to n. Without the
// rights to, it fails and leaves nothing.
func newNamespaces(n int) (_ network, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root")
	}
	ns := &namespaces{prefix: fmt.Sprintf("%s%d-%d-", nsPrefix, os.Getpid(), runs.Add(1)), slots: n + 1, inside: -1}
	defer func() {
		if err != nil {
			err = errors.Join(err, ns.close())
		}
	}()
	bridge := ns.prefix + "bridge"
	if err := ip("netns", "add", bridge); err != nil {
		return nil, err
	}
	if err := ip("-n", bridge, "link", "add", "br0", "type", "bridge"); err != nil {
		return nil, err
	}
	if err := ip("-n", bridge, "link", "set", "br0", "up"); err != nil {
		return nil, err
	}
	for slot := range ns.slots {
		name, port := ns.name(slot), "port"+strconv.Itoa(slot)
		for _, args := range [][]string{
			{"netns", "add", name},
			{"link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", port, "netns", bridge},
			{"-n", bridge, "link", "set", port, "master", "br0", "up"},
			{"-n", name, "link", "set", "lo", "up"},
			{"-n", name, "link", "set", "eth0", "up"},
			{"-n", name, "addr", "add", ns.host(slot) + "/24", "dev", "eth0"},
		} {
			if err := ip(args...); err != nil {
				return nil, err
			}
		}
	}
	if err := ip("-n", ns.name(callers), "addr", "add", operator+"/24", "dev", "eth0"); err != nil {
		return nil, err
	}
	ns.inside, err = unix.Open(filepath.Join("/run/netns", ns.name(callers)), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return ns, err
}

// ip runs one command of iproute2.
func ip(args ...string) error { return tool("ip", args...) }

func tool(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (ns *namespaces) name(slot int) string { return ns.prefix + strconv.Itoa(slot) }

func (ns *namespaces) host(slot int) string {
	if slot == callers {
		return subnet + "200"
	}
	return subnet + strconv.Itoa(slot)
}

func (ns *namespaces) command(slot int, name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", ns.name(slot), name}, args...)...)
}

// dial connects from the operator's address. The thread that changes sides
// stays locked, and ends with its goroutine.
func (ns *namespaces) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = unix.Setns(ns.inside, unix.CLONE_NEWNET); err != nil {
			return
		}
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(operator)}}
		conn, err = d.DialContext(ctx, network, addr)
	}()
	<-done
	return conn, err
}

// setLink gives from a wrong hardware address of to, or the right one back.
func (ns *namespaces) setLink(from, to int, open bool) error {
	if open {
		return ip("-n", ns.name(from), "neigh", "del", ns.host(to), "dev", "eth0")
	}
	return ip("-n", ns.name(from), "neigh", "replace", ns.host(to), "lladdr", nowhere, "dev", "eth0", "nud", "permanent")
}

func (ns *namespaces) setSlow(slot int, slow bool) error {
	if !slow {
		return tool("tc", "-n", ns.name(slot), "qdisc", "del", "dev", "eth0", "root")
	}
	return tool("tc", "-n", ns.name(slot), "qdisc", "add", "dev", "eth0", "root", "tbf",
		"rate", strconv.Itoa(8*slowLink)+"bit", "burst", "4kb", "latency", "3s")
}

func (ns *namespaces) about() string { return "network namespaces, " + subnet + "0/24" }

// close removes the namespaces; what lives in them must have ended.
func (ns *namespaces) close() error {
	if ns.inside >= 0 {
		_ = unix.Close(ns.inside)
		ns.inside = -1
	}
	return removeNamespaces(func(name string) bool { return strings.HasPrefix(name, ns.prefix) })
}

func removeNamespaces(which func(name string) bool) error {
	list, err := os.ReadDir("/run/netns")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range list {
		if which(e.Name()) {
			errs = append(errs, ip("netns", "del", e.Name()))
		}
	}
	return errors.Join(errs...)
}

// mountSmall gives a node a disk of its own of so many MiB.
func mountSmall(path string, mib int) error {
	return unix.Mount(fmt.Sprintf("%s%d", nsPrefix, os.Getpid()), path, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=700", mib))
}

func unmount(path string) error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		err := unix.Unmount(path, 0)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
		<-time.After(20 * time.Millisecond) // the last process is just going
	}
}

// sweep removes the namespaces and disks of runners that are gone.
func sweep() error {
	left := func(name string) bool {
		rest, ours := strings.CutPrefix(name, nsPrefix)
		pid, _, _ := strings.Cut(rest, "-")
		n, err := strconv.Atoi(pid)
		return ours && err == nil && errors.Is(unix.Kill(n, 0), unix.ESRCH)
	}
	err := removeNamespaces(left)
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && left(f[0]) {
			err = errors.Join(err, unix.Unmount(f[1], unix.MNT_DETACH))
		}
	}
	return err
}
