"""Whole data sets: any explanation over all devices of all hosts, into results that survive being killed."""

from jaxplain.batch.dataset import Dataset as Dataset
from jaxplain.batch.dataset import Example as Example
from jaxplain.batch.dataset import Photos as Photos
from jaxplain.batch.hosts import join as join
from jaxplain.batch.place import StoreError as StoreError
from jaxplain.batch.program import Explain as Explain
from jaxplain.batch.program import identity_key as identity_key
from jaxplain.batch.recipes import MapRecipe as MapRecipe
from jaxplain.batch.recipes import SagRecipe as SagRecipe
from jaxplain.batch.recipes import make_recipe as make_recipe
from jaxplain.batch.run import Outcome as Outcome
from jaxplain.batch.run import Progress as Progress
from jaxplain.batch.run import TooManyFailures as TooManyFailures
from jaxplain.batch.run import explain_dataset as explain_dataset
from jaxplain.batch.store import ResultStore as ResultStore
from jaxplain.batch.store import RowStatus as RowStatus
from jaxplain.batch.store import open_store as open_store
