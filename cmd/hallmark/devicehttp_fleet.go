package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"hallmark/fleet/jobs"
	"hallmark/fleet/policy"
	"hallmark/fleet/shadow"
	"hallmark/web"
)

// mount adds shadows and jobs. Each asks the action of the reference about the
// thing in the path: whose it is, is the policies' to say.
func (d *deviceHTTP) mount(mux *http.ServeMux) {
	for pattern, do := range map[string]func(http.ResponseWriter, *deviceCall) error{
		"GET /things/{thing}/shadow":                              d.getShadow,
		"POST /things/{thing}/shadow":                             d.updateShadow,
		"DELETE /things/{thing}/shadow":                           d.deleteShadow,
		"GET /api/things/shadow/ListNamedShadowsForThing/{thing}": d.listShadows,
		"GET /things/{thing}/jobs":                                d.pendingJobs,
		"GET /things/{thing}/jobs/{job}":                          d.describeJob,
		"PUT /things/{thing}/jobs/{job}":                          d.startJob,
		"POST /things/{thing}/jobs/{job}":                         d.updateJob,
	} {
		_, route, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(pattern, d.serve(route, do))
	}
}

// shadow is the shadow of a request, if the device may do that with it.
func (c *deviceCall) shadow(a policy.Action) (shadow.Key, error) {
	k := shadow.Key{Tenant: c.id.Tenant, Thing: c.thing(), Name: c.URL.Query().Get("name")}
	resource := string(k.Thing)
	if k.Name != "" {
		resource += "/" + k.Name
	}
	return k, c.may(a, resource)
}

// stored drops an error that is about telling others only: the change is made,
// and the device must not make it again.
func (d *deviceHTTP) stored(c *deviceCall, err error) error {
	if errors.Is(err, shadow.ErrUndelivered) {
		d.fleet.log.ErrorContext(c.Context(), "a change of a shadow was not told to everybody", "error", err)
		return nil
	}
	return err
}

func (d *deviceHTTP) getShadow(w http.ResponseWriter, c *deviceCall) error {
	k, err := c.shadow(policy.GetThingShadow)
	if err != nil {
		return err
	}
	b, err := d.fleet.shadows.Get(c.Context(), k)
	if err != nil {
		return err
	}
	return answerJSON(w, b)
}

func (d *deviceHTTP) updateShadow(w http.ResponseWriter, c *deviceCall) error {
	k, err := c.shadow(policy.UpdateThingShadow)
	if err != nil {
		return err
	}
	b, err := d.fleet.shadows.Update(c.Context(), k, c.body)
	if err = d.stored(c, err); err != nil {
		return err
	}
	return answerJSON(w, b)
}

func (d *deviceHTTP) deleteShadow(w http.ResponseWriter, c *deviceCall) error {
	k, err := c.shadow(policy.DeleteThingShadow)
	if err != nil {
		return err
	}
	b, err := d.fleet.shadows.Delete(c.Context(), k)
	if err = d.stored(c, err); err != nil {
		return err
	}
	return answerJSON(w, b)
}

func (d *deviceHTTP) listShadows(w http.ResponseWriter, c *deviceCall) error {
	// The action has no resource: a policy allows it for every thing or for none.
	if err := c.may(policy.ListNamedShadowsForThing, ""); err != nil {
		return err
	}
	q, size := c.URL.Query(), 0
	if text := q.Get("pageSize"); text != "" {
		var err error
		if size, err = strconv.Atoi(text); err != nil || size < 1 {
			return errDeviceAsk.New("pageSize is a number from 1.")
		}
	}
	page, err := d.fleet.shadows.ListNamed(c.Context(), c.id.Tenant, c.thing(), q.Get("nextToken"), size)
	if err != nil {
		return err
	}
	b, err := json.Marshal(page)
	if err != nil {
		return err
	}
	return answerJSON(w, b)
}

func (d *deviceHTTP) pendingJobs(w http.ResponseWriter, c *deviceCall) error {
	if err := c.may(policy.GetPendingJobExecutions, string(c.thing())); err != nil {
		return err
	}
	inProgress, queued, err := d.fleet.jobs.Pending(c.Context(), c.id.Tenant, c.thing())
	if err != nil {
		return err
	}
	b, err := jobs.PendingJSON(inProgress, queued)
	if err != nil {
		return err
	}
	return answerJSON(w, b)
}

// answerExecution is {} when nothing is pending.
func answerExecution(w http.ResponseWriter, v *jobs.View) error {
	if v == nil {
		return answerJSON(w, []byte("{}"))
	}
	b, err := v.JSON()
	if err != nil {
		return err
	}
	return answerJSON(w, append(append([]byte(`{"execution":`), b...), '}'))
}

func (d *deviceHTTP) describeJob(w http.ResponseWriter, c *deviceCall) error {
	if err := c.may(policy.DescribeJobExecution, string(c.thing())); err != nil {
		return err
	}
	document, err := c.flag("includeJobDocument", true)
	if err != nil {
		return err
	}
	var number int64
	if text := c.URL.Query().Get("executionNumber"); text != "" {
		if number, err = strconv.ParseInt(text, 10, 64); err != nil || number < 0 {
			return errDeviceAsk.New("executionNumber is a number from 1.")
		}
	}
	v, err := d.fleet.jobs.Describe(c.Context(), c.id.Tenant, c.thing(), c.PathValue("job"), number, document)
	if err != nil {
		return err
	}
	return answerExecution(w, v)
}

// startJob is PUT …/jobs/$next; there is no other.
func (d *deviceHTTP) startJob(w http.ResponseWriter, c *deviceCall) error {
	if c.PathValue("job") != jobs.Next {
		return web.ErrRoute.New("")
	}
	if err := c.may(policy.StartNextPendingJobExecution, string(c.thing())); err != nil {
		return err
	}
	in, err := jobs.ParseStart(c.body)
	if err != nil {
		return err
	}
	v, err := d.fleet.jobs.StartNext(c.Context(), c.id.Tenant, c.thing(), in)
	if err != nil {
		return err
	}
	return answerExecution(w, v)
}

func (d *deviceHTTP) updateJob(w http.ResponseWriter, c *deviceCall) error {
	if err := c.may(policy.UpdateJobExecution, string(c.thing())); err != nil {
		return err
	}
	in, err := jobs.ParseUpdate(c.body)
	if err != nil {
		return err
	}
	u, err := d.fleet.jobs.Update(c.Context(), c.id.Tenant, c.thing(), c.PathValue("job"), in)
	if err != nil {
		return err
	}
	b, err := u.JSON()
	if err != nil {
		return err
	}
	return answerJSON(w, b)
}
