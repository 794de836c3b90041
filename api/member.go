package api

import (
	"net"
	"net/url"
	"strconv"
)

// Check says what is wrong with the form of a node's id or addresses, or returns
// nil.
func (m *MemberRequest) Check() error {
	if err := CheckNodeID(m.ID); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(m.Raft)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" {
		return NewProblem(InvalidRequest, "raft: %.140q is not host:port, such as 10.0.0.4:9101", m.Raft)
	}
	u, err := url.Parse(m.HTTP)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || *u != (url.URL{Scheme: u.Scheme, Host: u.Host}) {
		return NewProblem(InvalidRequest, "http: %.140q is not a base URL, such as http://10.0.0.4:8101", m.HTTP)
	}
	return nil
}
