// SPDX-License-Identifier: GPL-2.0
/* Per-CPU timers for cpu_timer.rs: kernel::bindings lacks the macros that set up timers. */
#include <linux/irq_work.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/timer.h>

typedef unsigned long (*rust_cpu_timer_expired_t)(const void *context, unsigned int cpu);

struct rust_cpu_timer {
	struct timer_list timer;
	struct irq_work work;
	struct rust_cpu_timers *all;
	bool started;
};

struct rust_cpu_timers {
	struct rust_cpu_timer __percpu *each;
	rust_cpu_timer_expired_t expired;
	const void *context;
	unsigned long delay;
};

struct rust_cpu_timers *rust_cpu_timers_new(bool deferrable, unsigned long delay, rust_cpu_timer_expired_t expired,
					    const void *context);
void rust_cpu_timers_free(struct rust_cpu_timers *this);
void rust_cpu_timer_start(struct rust_cpu_timers *this);
void rust_cpu_timer_arm(struct rust_cpu_timers *this);
void rust_cpu_timer_arm_by_interrupt(struct rust_cpu_timers *this);
void rust_cpu_timer_stop(struct rust_cpu_timers *this);

static void rust_cpu_timer_set(struct rust_cpu_timer *each, unsigned long delay)
{
	mod_timer(&each->timer, jiffies + delay);
}

static void rust_cpu_timer_expired(struct timer_list *timer)
{
	struct rust_cpu_timer *each = container_of(timer, struct rust_cpu_timer, timer);
	unsigned long delay = each->all->expired(each->all->context, smp_processor_id());

	if (delay && READ_ONCE(each->started))
		rust_cpu_timer_set(each, delay);
}

static void rust_cpu_timer_interrupted(struct irq_work *work)
{
	struct rust_cpu_timer *each = container_of(work, struct rust_cpu_timer, work);

	if (READ_ONCE(each->started) && !timer_pending(&each->timer))
		rust_cpu_timer_set(each, each->all->delay);
}

struct rust_cpu_timers *rust_cpu_timers_new(bool deferrable, unsigned long delay, rust_cpu_timer_expired_t expired,
					    const void *context)
{
	struct rust_cpu_timers *this = kzalloc(sizeof(*this), GFP_KERNEL);
	unsigned int cpu;

	if (!this)
		return NULL;
	this->each = alloc_percpu(struct rust_cpu_timer);
	if (!this->each) {
		kfree(this);
		return NULL;
	}
	this->expired = expired;
	this->context = context;
	this->delay = delay;
	for_each_possible_cpu(cpu) {
		struct rust_cpu_timer *each = per_cpu_ptr(this->each, cpu);

		each->all = this;
		if (deferrable)
			timer_setup(&each->timer, rust_cpu_timer_expired, TIMER_PINNED | TIMER_DEFERRABLE);
		else
			timer_setup(&each->timer, rust_cpu_timer_expired, TIMER_PINNED);
		init_irq_work(&each->work, rust_cpu_timer_interrupted);
	}
	return this;
}

/* All CPUs must have stopped their timers. */
void rust_cpu_timers_free(struct rust_cpu_timers *this)
{
	free_percpu(this->each);
	kfree(this);
}

/* The rest is for the timer of the current CPU, which must not change meanwhile. */

void rust_cpu_timer_start(struct rust_cpu_timers *this)
{
	WRITE_ONCE(this_cpu_ptr(this->each)->started, true);
}

/* The timer must have been started. */
void rust_cpu_timer_arm(struct rust_cpu_timers *this)
{
	rust_cpu_timer_set(this_cpu_ptr(this->each), this->delay);
}

/*
 * For callers that hold locks of the scheduler, under which those of timers must not be taken. A pending work serves
 * this call, too: it checks the timer later.
 */
void rust_cpu_timer_arm_by_interrupt(struct rust_cpu_timers *this)
{
	struct rust_cpu_timer *each = this_cpu_ptr(this->each);

	if (READ_ONCE(each->started) && !timer_pending(&each->timer))
		irq_work_queue(&each->work);
}

void rust_cpu_timer_stop(struct rust_cpu_timers *this)
{
	struct rust_cpu_timer *each = this_cpu_ptr(this->each);

	WRITE_ONCE(each->started, false);
	/* Handlers that have seen it started run on this CPU, and have ended after this. */
	irq_work_sync(&each->work);
	timer_delete_sync(&each->timer);
}
