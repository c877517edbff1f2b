package discovery_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/banyan-go/banyan/internal/secret"
	"github.com/banyan-go/banyan/proxy/discovery"
)

// fake is a Consul agent as far as its HTTP API promises what we use: registrations with checks by TTL and HTTP, and
// health with blocking queries. It forgets everything when it is restarted. TestConsul holds it to what a real one does.
type fake struct {
	server *httptest.Server
	token  string

	mu       sync.Mutex
	index    uint64
	restored int           // how often a snapshot was loaded
	changed  chan struct{} // closed with each change
	services map[string]*instance
	asked    int // questions for health
	waiting  int // those of them that wait
	down     bool
	tokens   []string
}

type instance struct {
	api.AgentServiceRegistration
	status  string
	expires *time.Timer
	ended   chan struct{}
}

func newFake(t *testing.T) *fake {
	t.Helper()
	return startFake(t, (*httptest.Server).Start)
}

func startFake(t *testing.T, start func(*httptest.Server)) *fake {
	t.Helper()
	f := &fake{token: "6f1c9c1e-0000-4000-8000-000000000001"}
	f.forget()
	f.index = 1000
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/agent/service/register", f.register)
	mux.HandleFunc("PUT /v1/agent/service/deregister/{id}", f.deregister)
	mux.HandleFunc("PUT /v1/agent/check/update/{id}", f.update)
	mux.HandleFunc("GET /v1/agent/service/{id}", f.service)
	mux.HandleFunc("GET /v1/health/service/{name}", f.health)
	f.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := r.Header.Get("X-Consul-Token")
		f.mu.Lock()
		f.tokens = append(f.tokens, token)
		down := f.down
		f.mu.Unlock()
		if down {
			http.Error(w, "No cluster leader", http.StatusInternalServerError)
			return
		}
		if token != f.token {
			http.Error(w, "ACL not found", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	f.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	start(f.server)
	t.Cleanup(func() {
		f.forget() // ends the questions that wait
		f.server.CloseClientConnections()
		f.server.Close()
	})
	return f
}

func (f *fake) config() discovery.Consul {
	return discovery.Consul{Addr: f.server.URL, Token: secret.Text(f.token)}
}

// restart breaks all connections; who comes again finds an agent that has no leader at first, and then one that knows
// nothing and counts from the beginning.
func (f *fake) restart() {
	f.setDown(true)
	f.forget()
	f.server.CloseClientConnections()
	<-time.After(time.Second)
	f.setDown(false)
}

func (f *fake) setDown(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
}

func (f *fake) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.services {
		s.end()
	}
	if f.changed != nil {
		close(f.changed)
	}
	f.services, f.index, f.changed = map[string]*instance{}, 10, make(chan struct{})
}

// change has to be called with mu held.
func (f *fake) change() {
	f.index++
	close(f.changed)
	f.changed = make(chan struct{})
}

func (s *instance) end() {
	close(s.ended)
	if s.expires != nil {
		s.expires.Stop()
	}
}

func (f *fake) register(w http.ResponseWriter, r *http.Request) {
	s := &instance{status: api.HealthCritical, ended: make(chan struct{})}
	if err := json.NewDecoder(r.Body).Decode(&s.AgentServiceRegistration); err != nil || s.Check == nil {
		http.Error(w, fmt.Sprint("Request decode failed: ", err), http.StatusBadRequest)
		return
	}
	ttl, ttlErr := time.ParseDuration(s.Check.TTL)
	interval, intervalErr := time.ParseDuration(s.Check.Interval)
	if (ttlErr == nil) == (intervalErr == nil) || s.Weights != nil && s.Weights.Passing < 1 {
		http.Error(w, "Invalid check: TTL must be > 0 or Interval must be > 0", http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.services[s.ID]; old != nil {
		old.end()
		if r.URL.Query().Get("replace-existing-checks") == "" {
			s.status = old.status
		}
	}
	f.services[s.ID] = s
	if ttlErr == nil {
		s.expires = time.AfterFunc(ttl, func() { f.judge(s, api.HealthCritical) })
	} else {
		go f.check(s, interval)
	}
	f.change()
}

// check asks the process, as Consul does.
func (f *fake) check(s *instance, interval time.Duration) {
	for {
		status := api.HealthCritical
		if response, err := http.Get(s.Check.HTTP); err == nil {
			_ = response.Body.Close()
			if response.StatusCode/100 == 2 {
				status = api.HealthPassing
			}
		}
		f.judge(s, status)
		select {
		case <-s.ended:
			return
		case <-time.After(interval):
		}
	}
}

func (f *fake) judge(s *instance, status string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.services[s.ID] == s && s.status != status {
		s.status = status
		f.change()
	}
}

func (f *fake) deregister(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.services[r.PathValue("id")]
	if s == nil {
		http.Error(w, fmt.Sprintf("Unknown service ID %q. Ensure that the service ID is passed, not the service name.", r.PathValue("id")), http.StatusNotFound)
		return
	}
	s.end()
	delete(f.services, s.ID)
	f.change()
}

func (f *fake) update(w http.ResponseWriter, r *http.Request) {
	var u struct{ Status, Output string }
	if err := json.NewDecoder(r.Body).Decode(&u); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	var found *instance
	for _, s := range f.services {
		if s.Check.CheckID == r.PathValue("id") && s.expires != nil {
			found = s
		}
	}
	f.mu.Unlock()
	if found == nil {
		http.Error(w, fmt.Sprintf("Unknown check ID %q. Ensure that the check ID is passed, not the check name.", r.PathValue("id")), http.StatusNotFound)
		return
	}
	if ttl, err := time.ParseDuration(found.Check.TTL); err == nil {
		found.expires.Reset(ttl)
	}
	f.judge(found, u.Status)
}

func (f *fake) service(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.services[r.PathValue("id")]
	if s == nil {
		http.Error(w, "unknown service ID: "+r.PathValue("id"), http.StatusNotFound)
		return
	}
	_ = json.NewEncoder(w).Encode(api.AgentService{ID: s.ID, Service: s.Name, Address: s.Address, Port: s.Port, Tags: s.Tags})
}

func (f *fake) health(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if dc := query.Get("dc"); dc != "" && dc != "dc1" {
		http.Error(w, "No path to datacenter", http.StatusInternalServerError)
		return
	}
	after, _ := strconv.ParseUint(query.Get("index"), 10, 64)
	wait, err := time.ParseDuration(query.Get("wait"))
	if err != nil || wait > 10*time.Minute {
		wait = 5 * time.Minute
	}
	timeout := time.After(wait + wait/16)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	// Who waits while a snapshot is loaded is answered at once; who comes later with an index of before waits.
	for restored := f.restored; after > 0 && f.index <= after && restored == f.restored; {
		changed := f.changed
		f.waiting++
		f.mu.Unlock()
		ended := false
		select {
		case <-changed:
		case <-timeout:
			ended = true
		case <-r.Context().Done():
			ended = true
		}
		f.mu.Lock()
		f.waiting--
		if ended {
			break
		}
	}
	list := []api.ServiceEntry{}
	for _, s := range f.services {
		lacks := func(tag string) bool { return !slices.Contains(s.Tags, tag) }
		if s.Name != r.PathValue("name") || query.Has("passing") && s.status != api.HealthPassing || slices.ContainsFunc(query["tag"], lacks) {
			continue
		}
		entry := api.ServiceEntry{Node: &api.Node{Node: "fake", Address: "10.255.255.1"}, Service: &api.AgentService{
			ID: s.ID, Service: s.Name, Address: s.Address, Port: s.Port, Tags: s.Tags, Weights: api.AgentWeights{Passing: 1, Warning: 1},
		}}
		if s.Weights != nil {
			entry.Service.Weights = *s.Weights
		}
		list = append(list, entry)
	}
	w.Header().Set("X-Consul-Index", strconv.FormatUint(f.index, 10))
	w.Header().Set("X-Consul-LastContact", "0")
	w.Header().Set("X-Consul-KnownLeader", "true")
	_ = json.NewEncoder(w).Encode(list)
}

// restore loads a snapshot of long ago: it has no instances, and the index goes back.
func (f *fake) restore() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index, f.services = 2, map[string]*instance{}
	f.restored++
	close(f.changed)
	f.changed = make(chan struct{})
}

// add registers an instance that nobody keeps alive, passing at once.
func (f *fake) add(id, name, addr string) {
	host, text, _ := net.SplitHostPort(addr)
	port, _ := strconv.Atoi(text)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.services[id] = &instance{
		AgentServiceRegistration: api.AgentServiceRegistration{ID: id, Name: name, Address: host, Port: port, Check: &api.AgentServiceCheck{}},
		status:                   api.HealthPassing, ended: make(chan struct{}),
	}
	f.change()
}

func (f *fake) questions() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}
